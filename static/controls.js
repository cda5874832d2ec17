// What makes forms, tabs and pictures quicker to use; without scripts all of it works too, more slowly.

const TYPING_MS = 250;

// Filters act as they are changed.

let typing = 0;

function filter(form, how) {
  const url = new URL(form.action || location.href);
  url.search = "";
  for (const [name, value] of new FormData(form)) if (value) url.searchParams.set(name, value);
  if (url.href === location.href) return;
  document.dispatchEvent(new CustomEvent("postback:load", { detail: { url: url.href, how } }));
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-filters]")) return;
  event.preventDefault();
  clearTimeout(typing);
  filter(event.target, "push");
});
document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (form?.matches("[data-filters]") && event.target.matches("select")) filter(form, "push");
});
document.addEventListener("input", (event) => {
  const { form } = event.target;
  if (form?.matches("[data-filters]") && event.target.type === "search") {
    clearTimeout(typing);
    typing = setTimeout(() => filter(form, location.search.includes("q=") ? "replace" : "push"), TYPING_MS);
  }
  if (event.target.matches("[data-at]")) slide();
  if (event.target.matches("[data-mask]")) slide();
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-newer]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  document.dispatchEvent(new CustomEvent("postback:load", { detail: { url: link.href, how: "push" } }));
  scrollTo({ top: 0 });
});
// The form shows what the address says, also after going back.
document.addEventListener("postback:drawn", () => {
  const wanted = new URLSearchParams(location.search);
  for (const field of document.querySelectorAll("[data-filters] select, [data-filters] input")) {
    if (field !== document.activeElement) field.value = wanted.get(field.name) ?? "";
  }
});

// A sheet that asks is put away by pressing anything else.
document.addEventListener("click", (event) => {
  for (const sheet of document.querySelectorAll("details.ask[open]")) {
    if (!sheet.contains(event.target)) sheet.open = false;
  }
});

// Copying

async function copyText(element) {
  // Not what is seen of it: that may be nothing, in what is folded.
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
  // Without TLS there is only the old way, which copies what is seen.
  const folded = element.closest("details");
  if (folded) folded.open = true;
  getSelection().selectAllChildren(element);
  document.execCommand("copy");
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const before = button.innerHTML;
  const hidden = button.querySelector(".sr")?.outerHTML ?? "";
  try {
    await copyText(document.getElementById(button.dataset.copy));
    button.innerHTML = `Copied${hidden}`;
  } catch {
    button.innerHTML = `Not allowed${hidden}`;
  }
  setTimeout(() => (button.innerHTML = before), 1500);
});

// One sheet at a time, which a click elsewhere closes.

document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.ask[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});

// Sections that become tabs

function panels(tabs) {
  return [...tabs.querySelectorAll("a[href^='#']")].map((tab) => [tab, document.getElementById(tab.hash.slice(1))]);
}

function choose(tabs, chosen) {
  for (const [tab, panel] of panels(tabs)) {
    const here = tab === chosen;
    tab.setAttribute("aria-selected", String(here));
    tab.tabIndex = here ? 0 : -1;
    panel.hidden = !here;
  }
}

function tabulate() {
  const tabs = document.querySelector("[data-tabs] > .tabs");
  if (!tabs || tabs.getAttribute("role") === "tablist") return;
  tabs.setAttribute("role", "tablist");
  for (const item of tabs.children) item.setAttribute("role", "presentation");
  for (const [tab, panel] of panels(tabs)) {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    panel.tabIndex = 0;
  }
  const all = [...tabs.querySelectorAll("a")];
  choose(tabs, all.find((tab) => tab.hash === location.hash) ?? all[0]);
  tabs.addEventListener("click", (event) => {
    const tab = event.target.closest("a");
    if (!tab) return;
    event.preventDefault();
    choose(tabs, tab);
    history.replaceState(null, "", tab.hash);
  });
  tabs.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
    next.focus();
    next.click();
  });
}

// Before and after

function slide() {
  const compare = document.querySelector("[data-compare]");
  if (!compare) return;
  compare.style.setProperty("--at", `${compare.querySelector("[data-at]").value}%`);
  compare.classList.toggle("one", Boolean(compare.querySelector("figure[hidden]:not(.mask)")));
  compare.classList.toggle("masked", document.querySelector("[data-mask]")?.checked ?? false);
}

// Each of several results can be the one that is compared.
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-show]");
  if (!button) return;
  const image = document.querySelector(".compare .after img");
  image.src = button.dataset.show;
  image.dataset.kept = "";
  image.removeAttribute("width");
  image.removeAttribute("height");
  document.getElementById("compare").scrollIntoView({ block: "nearest" });
});

// The caller's own image may be gone from where it was.
document.addEventListener(
  "error",
  (event) => {
    const figure = event.target.closest?.(".compare figure");
    const link = event.target.closest?.(".inputs a");
    if (link) miss(link);
    if (!figure) return;
    figure.hidden = true;
    slide();
  },
  true,
);

function miss(link) {
  link.dataset.kept = "";
  link.removeAttribute("href");
  link.className = "quiet small gone";
  link.textContent = "No longer to be had";
}

function settle() {
  tabulate();
  slide();
}

document.addEventListener("postback:drawn", settle);
settle();
