// j k Enter Esc / n r ?: see the help of each page.

const help = document.getElementById("help");

function rows() {
  return [...document.querySelectorAll("#rows > li")].map((row) => row.querySelector("a.over, :not(.ask) > summary")).filter(Boolean);
}

function step(by) {
  const all = rows();
  if (!all.length) return;
  const here = all.findIndex((link) => link.closest("li").contains(document.activeElement));
  const next = here < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(here + by, 0), all.length - 1);
  all[next].focus({ preventScroll: true });
  all[next].closest("li").scrollIntoView({ block: "nearest" });
}

// Who comes back to a list goes on from the row that was opened.
document.addEventListener("click", (event) => {
  const row = event.target.closest("a.over")?.closest("#rows > li");
  if (row) history.replaceState({ row: row.id }, "");
});
if (performance.getEntriesByType("navigation")[0]?.type === "back_forward" && history.state?.row) {
  document.getElementById(history.state.row)?.querySelector("a.over")?.focus();
}

function escape() {
  const open = document.querySelector("details.ask[open]");
  if (open) {
    open.open = false;
    open.querySelector("summary").focus();
  } else if (document.activeElement !== document.body) {
    document.activeElement.blur();
  } else {
    back();
  }
}

function back() {
  const link = document.querySelector("[data-back]");
  if (!link) return;
  const before = document.referrer && new URL(document.referrer);
  // With its filters and its place, if that is where we came from.
  if (before && before.origin === location.origin && before.pathname === new URL(link.href).pathname) history.back();
  else link.click();
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  n: () => document.querySelector("[data-newer]")?.click(),
  r: () => document.dispatchEvent(new CustomEvent("postback:refresh")),
  "/": () => document.getElementById("q")?.select(),
  "?": () => help?.showModal(),
  Escape: escape,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || help?.open) return;
  const typing = event.target.closest("input:not([type=checkbox], [type=range]), textarea, select");
  if (typing && event.key !== "Escape") return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-help]")) help?.showModal();
  if (event.target === help) help.close();
});
