// What the pages do besides showing: branches open in place, a slider moves through time, and a
// page that is as of now follows what happens. Everything works without, by links and forms.

const main = () => document.getElementById("main");

// read fetches a page of this server and returns it as a document.
async function read(url, signal) {
  const response = await fetch(url, { signal, headers: { Accept: "text/html" } });
  const text = await response.text();
  return { ok: response.ok, page: new DOMParser().parseFromString(text, "text/html"), url: response.url };
}

// replace puts another page's content in place of this one's, and keeps what the reader was at.
function replace(page) {
  const next = page.getElementById("main");
  if (!next) return;
  const focused = document.activeElement?.closest?.("#main") ? document.activeElement.id : "";
  main().replaceWith(document.adoptNode(next));
  document.title = page.title;
  const footer = page.querySelector("footer");
  if (footer) document.querySelector("footer").replaceWith(document.adoptNode(footer));
  if (focused) document.getElementById(focused)?.focus();
  enhance();
}

// --- Branches

// open draws what is below a key under it.
async function open(link) {
  const item = link.closest("li");
  link.setAttribute("aria-busy", "true");
  try {
    const { ok, page } = await read(link.href);
    const drawn = page.querySelector("#tree .tree > li");
    if (!ok || !drawn) throw new Error();
    const below = drawn.querySelector(":scope > ul") ?? document.createElement("ul");
    const more = page.querySelector("#tree .pager a");
    if (more) {
      const last = document.createElement("li");
      more.textContent = "All that is directly below";
      last.append(more);
      below.append(last);
    }
    link.remove();
    item.append(document.adoptNode(below));
    enhanceTree(item.closest(".tree"));
    item.querySelector(":scope > .toggle")?.focus();
  } catch {
    location.assign(link.href);
  }
}

// toggle lets a branch be closed and opened again.
function toggle(item, below) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "toggle";
  const show = (open) => {
    below.hidden = !open;
    button.textContent = open ? "−" : "+";
    button.setAttribute("aria-expanded", String(open));
    const name = item.querySelector(":scope > .name")?.textContent ?? "this key";
    button.setAttribute("aria-label", `Keys below ${name}`);
  };
  button.addEventListener("click", () => show(below.hidden));
  show(true);
  item.prepend(button);
}

function enhanceTree(tree) {
  if (!tree) return;
  for (const item of tree.querySelectorAll("li")) {
    const below = item.querySelector(":scope > ul");
    if (below && !item.querySelector(":scope > .toggle")) toggle(item, below);
  }
}

document.addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.target.closest?.(".tree a.open");
  if (!link) return;
  event.preventDefault();
  open(link);
});

// --- Time

let moving = new AbortController();

// look shows the page as of a block, and keeps that in the address, which can be shared.
async function look(height) {
  moving.abort();
  moving = new AbortController();
  const url = new URL(location.href);
  if (height === null) url.searchParams.delete("at");
  else url.searchParams.set("at", height);
  try {
    const { page } = await read(url, moving.signal);
    history.replaceState(null, "", url);
    replace(page);
  } catch (failure) {
    if (failure.name !== "AbortError") location.assign(url);
  }
}

// slider adds to the form that asks for a block's number one that is moved, and stops where
// something changed.
function slide(form) {
  if (form.querySelector("input[type=range]")) return;
  const number = form.querySelector("input[type=number]");
  const range = document.createElement("input");
  range.type = "range";
  range.id = "slide";
  range.min = form.dataset.from;
  range.max = form.dataset.to;
  range.value = number.value;
  range.setAttribute("aria-label", "As of block");
  let waiting = 0;
  range.addEventListener("input", () => {
    number.value = range.value;
    clearTimeout(waiting);
    waiting = setTimeout(() => look(range.value), 60);
  });
  form.prepend(range);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look(number.value);
  });
}

// --- Now

let stream = null;

// tell says what happened, to the eye and to the ear.
let told = 0;
function tell(text) {
  told = Date.now();
  const news = document.getElementById("news");
  news.hidden = false;
  news.textContent = text;
}

// refresh reads the page again: several things that happen at once are one reason.
let soon = 0;
function refresh() {
  clearTimeout(soon);
  soon = setTimeout(async () => {
    try {
      const { page } = await read(location.href);
      replace(page);
      main().classList.add("fresh");
    } catch {
      tell("This page cannot be read again: the server does not answer.");
    }
  }, 150);
}

// follow listens to what concerns the page.
function follow() {
  const what = main().dataset.live;
  if (!what) {
    stream?.source.close();
    stream = null;
    return;
  }
  if (stream?.what === what) return;
  stream?.source.close();
  const { Addresses, IDs } = JSON.parse(what);
  const query = new URLSearchParams({ unconfirmed: "true" });
  if (Addresses?.length) query.set("addresses", Addresses.join(","));
  if (IDs?.length) query.set("ids", IDs.join(","));
  const source = new EventSource(`/v1/stream?${query}`);
  stream = { what, source };
  const height = (event) => { try { return JSON.parse(event.data).block.height; } catch { return undefined; } };
  source.addEventListener("open", () => { document.documentElement.dataset.following = ""; });
  source.addEventListener("connect", (event) => { tell(`Block ${height(event) ?? ""} has come.`); refresh(); });
  source.addEventListener("disconnect", (event) => {
    tell(`Block ${height(event) ?? ""} was taken off the chain: the network prefers another. What it changed does not count any more.`);
    refresh();
  });
  // What is pending is sent whole at the beginning: the page has it already.
  let begun = false;
  setTimeout(() => { begun = true; }, 1000);
  source.addEventListener("pending", () => { if (begun) refresh(); });
  source.addEventListener("drop", () => {
    // After a block that is what it had, or what cannot be any more: the block was told of.
    if (Date.now() - told > 2000) tell("A pending transaction is gone from the mempool.");
    refresh();
  });
}

addEventListener("pagehide", () => { stream?.source.close(); stream = null; });
addEventListener("pageshow", (event) => { if (event.persisted) follow(); });

// enhance does it all for what is on the page.
function enhance() {
  enhanceTree(document.querySelector(".tree"));
  for (const form of document.querySelectorAll("form.slider")) slide(form);
  follow();
}

enhance();
