// What the pages do besides showing: branches open in place, a slider moves through time, a page that is as of now
// follows what happens, and what the server can prove is checked. Everything works without, by links and forms.

import { prove } from "./proof.js";

const main = () => document.getElementById("main");

// read fetches a page of this server and returns it as a document.
async function read(url) {
  const response = await fetch(url, { headers: { Accept: "text/html" } });
  const text = await response.text();
  return { ok: response.ok, busy: response.status === 429 || response.status === 503, wait: Number(response.headers.get("Retry-After")) || 1,
    page: new DOMParser().parseFromString(text, "text/html") };
}

const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

// attributes gives an element those of another.
function attributes(old, next) {
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}

// around puts another page's content in place of this one's, around the section with the slider: one that is taken
// away lets go of the finger that moves it.
function around(time, next, its) {
  const old = main();
  for (const node of [...old.childNodes]) if (node !== time) node.remove();
  while (next.firstChild !== its) old.insertBefore(document.adoptNode(next.firstChild), time);
  while (its.nextSibling) old.append(document.adoptNode(its.nextSibling));
  attributes(old, next);
  fit(time.querySelector("form"), its.querySelector("form"));
  const columns = [...time.querySelectorAll(".timeline a")];
  const others = [...its.querySelectorAll(".timeline a")];
  if (columns.length === others.length && columns.every((column, i) => column.textContent === others[i].textContent && column.dataset.block === others[i].dataset.block)) {
    columns.forEach((column, i) => attributes(column.querySelector(".keys"), others[i].querySelector(".keys")));
  } else {
    time.querySelector("figure").replaceWith(document.adoptNode(its.querySelector("figure")));
  }
  time.querySelector(".pager").replaceWith(document.adoptNode(its.querySelector(".pager")));
}

// replace puts another page's content in place of this one's, and keeps what the reader was at.
function replace(page) {
  const next = page.getElementById("main");
  if (!next) return;
  if (moving) next.classList.add("moving");
  const at = document.activeElement?.closest?.("#main") ? document.activeElement : null;
  const believed = main().querySelector(".proof .believed");
  if (believed) next.querySelector(".proof .believed")?.replaceWith(document.adoptNode(believed)); // what the reader writes there is not lost
  const time = main().querySelector("section.time");
  const its = next.querySelector("section.time");
  if (time && its) around(time, next, its);
  else main().replaceWith(document.adoptNode(next));
  document.title = page.title;
  const footer = page.querySelector("footer");
  if (footer) document.querySelector("footer").replaceWith(document.adoptNode(footer));
  if (at?.id && document.activeElement !== at) document.getElementById(at.id)?.focus();
  enhance();
}

// share puts in the address bar what the reader sees, so that it can be given to others: the block, and
// which branches are open. A browser that is asked too often says no; the next time will do.
function share(url) {
  url.hash = opened.length ? `open=${opened.join(",")}` : location.hash.startsWith("#open=") ? "" : location.hash;
  try {
    history.replaceState(null, "", url);
  } catch { /* the page is what it was */ }
}

// --- Branches

// opened are the keys whose branches were opened in place, in that order: so many of them that a link stays short.
const mostOpened = 12;
let opened = new URLSearchParams(location.hash.slice(1)).get("open")?.split(",").slice(0, mostOpened) ?? [];

const below = (link) => new URL(link.href).searchParams.get("below");

// draw puts under a key, in this document or another, what is below it. It says whether it could.
async function draw(link) {
  const item = link.closest("li");
  link.setAttribute("aria-busy", "true");
  const { ok, page } = await read(link.href);
  const drawn = page.querySelector("#tree .tree > li");
  if (!ok || !drawn || !item.isConnected) return null;
  const list = drawn.querySelector(":scope > ul") ?? document.createElement("ul");
  const more = page.querySelector("#tree .pager a");
  if (more) {
    const last = document.createElement("li");
    more.textContent = "More of what is directly below";
    last.append(more);
    list.append(last);
  }
  link.remove();
  item.append(item.ownerDocument.adoptNode(list));
  return item;
}

// open draws what is below a key under it, because somebody asked for it.
async function open(link) {
  const key = below(link);
  try {
    const item = await draw(link);
    if (!item && link.isConnected) throw new Error();
    opened = [...opened.filter((one) => one !== key), key].slice(-mostOpened);
    share(new URL(location.href));
    if (!item) { // the page was read again meanwhile
      await reopen(document);
      return;
    }
    enhanceTree(item.closest(".tree"));
    item.querySelector(":scope > .toggle")?.focus();
  } catch {
    location.assign(link.href);
  }
}

// reopen opens in a page, this one or one that is to come in its place, the branches that are open.
async function reopen(page) {
  for (const key of opened) {
    const link = [...page.querySelectorAll(".tree a.open")].find((one) => below(one) === key);
    try {
      if (link) await draw(link);
    } catch { /* it stays closed, and can be opened */ }
  }
  enhanceTree(document.querySelector(".tree"));
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

let wanted;         // the block that the slider was moved to, until the page is as of it
let moving = false; // a page is being read for it
let settling = 0;   // when it has not been moved for a while, the page gets all that it has

// here is the address of this page as of a block, null for now.
function here(height) {
  const url = new URL(location.href);
  if (height === null) url.searchParams.delete("at");
  else url.searchParams.set("at", height);
  return url;
}

// look shows the page as of a block. Pages are read one after the other: of the blocks that the slider
// passes meanwhile, only the last counts.
async function look(height) {
  wanted = height;
  clearTimeout(settling);
  if (moving) return;
  moving = true;
  let at;
  try {
    while (wanted !== undefined) {
      at = wanted;
      const { page, busy, wait } = await read(here(at));
      if (busy) {
        tell("This server has much to do. The page will follow.");
        await pause(1000 * wait);
        continue;
      }
      if (wanted === at) wanted = undefined;
      replace(page);
      if (wanted !== undefined) await pause(30);
    }
    share(here(at));
    settling = setTimeout(() => {
      main().classList.remove("moving");
      reopen(document);
      check();
    }, 150);
  } catch {
    location.assign(here(at));
  } finally {
    moving = false;
  }
}

// fit gives a slider the ends that another page's has, and its block, unless it is being moved.
function fit(form, its) {
  const number = form.querySelector("input[type=number]");
  const next = its.querySelector("input[type=number]");
  for (const input of form.querySelectorAll("input")) {
    input.min = next.min;
    input.max = next.max;
    if (wanted === undefined) input.value = next.value;
  }
  if (wanted === undefined) number.defaultValue = next.defaultValue;
}

// say tells in words where a slider is, to who hears the page.
function say(range) {
  let keys = "";
  for (const column of document.querySelectorAll(".timeline a")) {
    if (Number(column.dataset.block) > Number(range.value)) break;
    keys = `. ${column.querySelector("title").textContent}`;
  }
  range.setAttribute("aria-valuetext", `Block ${range.value}${keys}`);
}

// slide adds to the form that asks for a block's number a slider over the identity's time.
function slide(form) {
  const there = form.querySelector("input[type=range]");
  if (there) {
    say(there);
    return;
  }
  const number = form.querySelector("input[type=number]");
  const range = document.createElement("input");
  range.type = "range";
  range.id = "slide";
  range.min = number.min;
  range.max = number.max;
  range.value = number.value;
  range.setAttribute("aria-label", "As of block");
  range.addEventListener("input", () => {
    number.value = range.value;
    say(range);
    look(range.value);
  });
  form.prepend(range);
  say(range);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    range.value = number.value;
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
let gone = false; // what the page is about is not there any more, and may come back
function refresh(after = 150) {
  clearTimeout(soon);
  soon = setTimeout(async () => {
    try {
      if (moving) return; // what is wanted is another block
      const { ok, busy, wait, page } = await read(location.href);
      if (busy) {
        refresh(1000 * wait);
        return;
      }
      if (opened.length) await reopen(page);
      if (moving) return;
      gone = !ok;
      replace(page);
      void main().offsetWidth; // so that what is fresh once more is shown once more
      main().classList.add("fresh");
    } catch {
      tell("This page cannot be read again: the server does not answer.");
    }
  }, after);
}

// follow listens to what concerns the page.
function follow() {
  const what = main().dataset.live;
  if (!what && gone) return;
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
  source.addEventListener("pending", () => refresh());
  source.addEventListener("drop", () => {
    // After a block that is what it had, or what cannot be any more: the block was told of.
    if (Date.now() - told > 2000) tell("A pending transaction is gone from the mempool.");
    refresh();
  });
}

addEventListener("pagehide", () => { stream?.source.close(); stream = null; });
addEventListener("pageshow", (event) => { if (event.persisted) follow(); });

// check has what the page shows proven, unless it is on the way to another block.
function check() {
  const section = document.querySelector("section.proof");
  if (section && !moving) prove(section);
}

// enhance does it all for what is on the page.
function enhance() {
  enhanceTree(document.querySelector(".tree"));
  for (const form of document.querySelectorAll("form.slider")) slide(form);
  follow();
  check();
}

enhance();
if (opened.length) reopen(document);
