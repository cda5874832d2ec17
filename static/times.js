// Times and durations go on by themselves, relative in view and absolute on hover, in UTC or local time.

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

let local = remembered() === "local";

function remembered() {
  try {
    return localStorage.getItem("zone");
  } catch {
    return null; // Storage is switched off: then it is UTC on every page.
  }
}

function coarse(seconds) {
  const [length, unit] = UNITS.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.max(1, Math.floor(seconds / length))} ${unit}`;
}

function relative(at) {
  const seconds = (Date.now() - at) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  return seconds > 0 ? `${coarse(seconds)} ago` : `in ${coarse(-seconds)}`;
}

// The same words as in wording.py.
function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function shifted(at) {
  return new Date(local ? at.getTime() - at.getTimezoneOffset() * 60000 : at.getTime()).toISOString();
}

function zoneName(at) {
  if (!local) return "UTC";
  const parts = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(at);
  return parts.find((part) => part.type === "timeZoneName")?.value ?? "local time";
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function draw() {
  for (const element of document.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const written = shifted(at);
    const title = `${written.slice(0, 10)} ${written.slice(11, 19)} ${zoneName(at)}`;
    if (element.title !== title) element.title = title;
    const { form } = element.dataset;
    if (form === "clock") write(element, written.slice(11, 23));
    else write(element, form === "due" && at < Date.now() ? "now" : relative(at));
  }
  for (const element of document.querySelectorAll("[data-since]")) {
    write(element, duration(Math.max(0, (Date.now() - new Date(element.dataset.since)) / 1000)));
  }
  const button = document.querySelector("[data-zone]");
  if (button) {
    write(button, local ? "Local" : "UTC");
    button.setAttribute("aria-pressed", String(local));
  }
}

document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-zone]")) return;
  local = !local;
  try {
    localStorage.setItem("zone", local ? "local" : "utc");
  } catch {
    // Not remembered, then.
  }
  draw();
});
document.addEventListener("postback:drawn", draw);
setInterval(() => document.hidden || draw(), 1000);
draw();
