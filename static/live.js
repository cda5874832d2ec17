// Keeps a page as the server would draw it now: asks for the page again whenever something happens, and
// changes what is different.  Rows stay where they are; new ones are counted until they are asked for.

const PAUSE_MS = 1000; // between two refreshes
const POLL_MS = 5000; // without a stream of events
const IDLE_MS = 10000; // with one: not everything that a page shows is an event
const RECONNECT_MS = 15000;
// Scripts own these: a fresh page does not know them.
const OURS = new Set(["hidden", "open", "role", "tabindex", "style", "aria-selected", "aria-controls", "aria-pressed"]);

const main = document.getElementById("main");
const { live, stream, task } = main.dataset;
let source = null;
let asking = null;
let timer = 0;
let last = 0;
let reconnecting = 0;

// Drawing

function same(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id ?? "") === (other.id ?? "");
}

function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  // What somebody has chosen to see stays.
  if ("kept" in old.dataset) return;
  for (const { name, value } of fresh.attributes) {
    if (!OURS.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!OURS.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  children(old, fresh);
}

function children(old, fresh) {
  const keyed = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  const stays = new Set([...fresh.children].map((child) => child.id));
  let at = old.firstChild;
  const passGone = () => {
    // A row that the list no longer has keeps its place: what the pointer is over must not move.
    while ("rows" in old.dataset && at?.id && !stays.has(at.id)) {
      at.classList.add("gone");
      at = at.nextSibling;
    }
  };
  for (const wanted of [...fresh.childNodes]) {
    passGone();
    const match = wanted.id ? keyed.get(wanted.id) : at && !at.id && same(at, wanted) ? at : null;
    if (!match || match.nodeName !== wanted.nodeName) {
      old.insertBefore(arrived(document.importNode(wanted, true)), at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    morph(match, wanted);
  }
  passGone();
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function arrived(node) {
  if (node.classList?.contains("line")) node.classList.add("fresh");
  return node;
}

function draw(page) {
  const fresh = page.getElementById("content");
  if (!fresh) throw new Error("not one of our pages");
  // Whatever comes above it: the row under the pointer, or with the focus, stays where it is.
  const row = document.querySelector("#rows > li:is(:hover, :focus-within)");
  const top = row?.getBoundingClientRect().top;
  morph(document.getElementById("content"), fresh);
  document.title = page.title;
  const icon = page.querySelector("link[rel=icon]").getAttribute("href");
  const shown = document.querySelector("link[rel=icon]");
  if (shown.getAttribute("href") !== icon) shown.setAttribute("href", icon);
  document.dispatchEvent(new CustomEvent("postback:drawn"));
  if (row?.isConnected) scrollBy(0, row.getBoundingClientRect().top - top);
}

// Asking

function address() {
  const url = new URL(location.href);
  url.hash = "";
  const newest = document.querySelector("#rows[data-until] > li")?.id.slice(2);
  if (newest && !url.searchParams.has("cursor")) url.searchParams.set("until", newest);
  return url;
}

async function ask(url) {
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  try {
    const answer = await fetch(url, { signal: mine.signal, credentials: "same-origin" });
    if (answer.redirected && new URL(answer.url).pathname === "/login") return signInAgain();
    if (!answer.ok && answer.status < 400) throw new Error(`answered ${answer.status}`);
    if (answer.status >= 500) throw new Error(`answered ${answer.status}`);
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  } finally {
    if (asking === mine) asking = null;
  }
}

function signInAgain() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}&ended=1`);
  return null;
}

async function refresh() {
  clearTimeout(timer);
  last = performance.now();
  try {
    const page = await ask(address());
    if (page) {
      draw(page);
      state(source?.readyState === EventSource.OPEN ? "live" : "polling");
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    state("lost");
  }
  if (live !== undefined) later(source?.readyState === EventSource.OPEN ? IDLE_MS : POLL_MS);
}

function later(milliseconds) {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(refresh, milliseconds);
}

function soon() {
  later(Math.max(0, last + PAUSE_MS - performance.now()));
}

// Another page of the list, without leaving this one.
async function load(url, how) {
  main.setAttribute("aria-busy", "true");
  clearTimeout(timer);
  try {
    const page = await ask(url);
    if (!page) return;
    if (how === "push") history.pushState(null, "", url);
    if (how === "replace") history.replaceState(null, "", url);
    document.getElementById("rows")?.replaceChildren();
    draw(page);
  } catch (error) {
    if (error.name === "AbortError") return;
    failed(url, how);
  }
  main.removeAttribute("aria-busy");
  if (live !== undefined) later(source ? IDLE_MS : POLL_MS);
}

function failed(url, how) {
  const list = document.getElementById("list");
  const card = document.createElement("div");
  card.className = "card empty";
  card.setAttribute("role", "alert");
  const words = document.createElement("p");
  words.textContent = "This could not be loaded: the service did not answer.";
  const retry = document.createElement("button");
  retry.className = "button";
  retry.textContent = "Retry";
  retry.addEventListener("click", () => load(url, how));
  card.append(words, retry);
  list.replaceChildren(card);
}

// Listening

function state(word) {
  const shown = document.getElementById("live");
  const words = { live: "Live", polling: "Every 5 s", lost: "No answer, trying again", paused: "Paused" };
  if (!shown || live === undefined || shown.dataset.state === word) return;
  shown.dataset.state = word;
  shown.textContent = words[word];
}

function listen() {
  if (!stream || source) return;
  source = new EventSource(stream);
  source.addEventListener("open", () => {
    state("live");
    soon();
  });
  source.addEventListener("task", (event) => {
    if (!task || event.data.includes(task)) soon();
  });
  source.addEventListener("error", () => {
    stop();
    state("polling");
    later(POLL_MS);
    reconnecting = setTimeout(() => document.hidden || listen(), RECONNECT_MS);
  });
}

function stop() {
  clearTimeout(reconnecting);
  source?.close();
  source = null;
}

// What was shown once, or was entered wrongly, is not there a second time.
document.addEventListener("postback:refresh", () => live !== undefined && refresh());
document.addEventListener("postback:load", (event) => load(event.detail.url, event.detail.how));
addEventListener("popstate", () => load(location.href));
addEventListener("pagehide", stop);
if (live !== undefined) {
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
      stop();
      state("paused");
    } else {
      listen();
      refresh();
    }
  });
  state("polling");
  if (!document.hidden) {
    listen();
    // What was just done soon shows.
    const acted = document.querySelector(".flash[role=status]");
    later(acted ? PAUSE_MS : stream ? IDLE_MS : POLL_MS);
  }
}
