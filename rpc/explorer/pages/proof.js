// Asks for the state proof of what a page is about, checks it here, and says what it shows: by the policy of who reads,
// or, where there is none, by the server's own.

const kept = "keytree state policy"; // where the reader's policy is, in this browser alone

const stored = () => { try { return localStorage.getItem(kept); } catch { return null; } };
const store = (policy) => { if (policy) localStorage.setItem(kept, policy); else localStorage.removeItem(kept); };

const count = (n) => Number(n).toLocaleString("en");
const blocks = (n) => (n === 1 ? "1 block" : `${count(n)} blocks`);
const ends = (text, first, last) => `${text.slice(0, first)}…${text.slice(-last)}`;
const list = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

// ago says how long ago something was, in seconds.
function ago(seconds) {
  const [size, unit] = [[86_400, "day"], [3600, "hour"], [60, "minute"]].find(([size]) => seconds >= 2 * size) ?? [1, "second"];
  const n = Math.max(0, Math.floor(seconds / size));
  return `${count(n)} ${unit}${n === 1 ? "" : "s"} ago`;
}

// make is an element with text and elements in it. Nothing that comes from elsewhere is markup.
function make(name, attributes, ...content) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.append(...content);
  return element;
}

const key = (address) => make("a", { class: "name key", href: `/key/${encodeURIComponent(address)}`, title: address }, make("code", {}, ends(address.split(":").at(-1), 6, 5)));
const identity = (id) => make("a", { class: "name identity", href: `/identity/${id}`, title: id }, make("code", {}, ends(id, 6, 4)));

// shows says what is proven of a key or an identity, in words that are made of the proof alone.
function shows(proven) {
  if (proven.kind === "identity") {
    if (proven.found === undefined) return ["nothing, since the proof is full"];
    if (!proven.found) return ["there is no such identity"];
    if (proven.cut) return ["the identity has merged into another, more often than a proof can show"];
    return proven.state === "MERGED" ? ["the identity has merged into ", identity(proven.merged_into), ", whose main key is ", key(proven.main_address)] : ["the main key of the identity is ", key(proven.main_address)];
  }
  if (proven.found === undefined) return ["nothing, since the proof is full"];
  if (!proven.found) return ["the key was in no link"];
  if (!proven.parent_address) return ["the key has no key above it, and is the main key of identity ", identity(proven.id_tx_hash)];
  const above = ["the key is directly below ", key(proven.parent_address)];
  if (proven.cut) return [...above, ", and the way from there to the main key is longer than a proof can show"];
  if (proven.path.length === 2) return [...above, ", the main key of identity ", identity(proven.id_tx_hash)];
  return [...above, ` and ${proven.path.length - 1} links below `, key(proven.main_address), ", the main key of identity ", identity(proven.id_tx_hash)];
}

// told is what a proof comes to: a class, a title and what is said.
async function told(about, said, tools, policy) {
  const { Keytree, differences } = tools, keytree = new Keytree(location.origin, { cacheSize: 0, retries: 1 });
  const atHeight = about.at ?? undefined, asked = { policy, atHeight };
  const { state, key: ofKey, proven: ofIdentity } = await (about.kind === "key" ? keytree.resolveProven(about.name, asked) : keytree.identityProven(about.name, asked));
  const proven = ofKey ?? ofIdentity, later = about.as_of - state.as_of_height, differs = differences(said, proven);
  const by = state.cosigners.length > 0 ? `cosigned by ${list(state.cosigners)}${state.cosigned_at > 0 ? ` ${ago(Date.now() / 1000 - state.cosigned_at)}` : ""}` : "cosigned by nobody";
  const how = make("p", {}, `As of block ${count(state.as_of_height)} (log ${state.log}, ${by}) it is proven: `, ...shows(proven), ".");
  const old = state.old ? [make("p", {}, "That is old: much may have changed since, and nobody whom the policy names says that it has not.")] : [];
  const since = later > 0 ? [make("p", {}, `This page is as of ${blocks(later)} later. What those have brought is not proven.`)] : [];
  if (state.cosigners.length === 0) return { kind: "unproven", title: `Signed by its log alone as of block ${count(state.as_of_height)}`, body: [how, ...since] };
  if (proven.cut || proven.found === undefined) return { kind: "unproven", title: `Proven in part as of block ${count(state.as_of_height)}`, body: [how, ...old, ...since] };
  if (differs.length === 0) {
    return { kind: state.old ? "unproven" : "proven", title: `${state.old ? "An old proof" : "Proven"} as of block ${count(state.as_of_height)}${later > 0 ? `, ${blocks(later)} ago` : ""}`, body: [how, ...old, ...since] };
  }
  if (later > 0) return { kind: "unproven", title: "Not proven: this page shows what has changed since", body: [how, ...old, ...since] };
  return { kind: "refuted", title: "Refuted: this page does not show what this server has proven", body: [how] };
}

// failed is what an error comes to.
function failed(error, { own }) {
  const title = {
    DIFFERS: "Refuted: this server contradicts what it has proven", UNSUPPORTED: "Not proven: this browser cannot check it", POLICY: "Not proven: there is no policy by which it could be",
    INVALID: own ? "Not proven to those whom your policy names" : "Not proven",
  }[error.reason] ?? "Not proven";
  return { kind: error.reason === "DIFFERS" ? "refuted" : "unproven", title, body: [make("p", {}, `${error.message[0]?.toUpperCase() ?? ""}${error.message.slice(1)}.`)] };
}

// believe lets the reader say who is to be believed. Where that is said already nothing is touched: he may be writing.
function believe(section, own, policy) {
  const place = section.querySelector(".believed"), by = JSON.stringify([own, policy]);
  if (place.dataset.by === by) return;
  const details = believing(own, policy, () => prove(document.querySelector("section.proof")));
  details.open = place.querySelector("details")?.open ?? false;
  place.replaceChildren(details);
  place.dataset.by = by;
}

function believing(own, policy, again) {
  const text = make("textarea", { id: "policy", rows: "6", spellcheck: "false", autocapitalize: "off", autocomplete: "off" }), problem = make("p", { role: "status" });
  text.value = policy;
  const keep = (wanted) => () => {
    try {
      store(wanted());
      again();
    } catch {
      problem.textContent = "This browser keeps nothing for this site.";
    }
  };
  const mine = make("button", { type: "button" }, "Believe these"), theirs = make("button", { type: "button" }, "Believe this server's");
  mine.addEventListener("click", keep(() => text.value));
  theirs.addEventListener("click", keep(() => ""));
  return make("details", {}, make("summary", {}, own ? "By your policy" : "By this server's own word of whom to believe"),
    make("p", {}, own ? "It is kept in this browser alone." : "Who runs this server has named the log and its witnesses. To believe others, ask somebody else for a policy, and put it here: it is kept in this browser alone."),
    make("label", { for: "policy" }, "Policy: which log, which witnesses, how many of them"), text, make("p", { class: "pager" }, mine, ...(own ? [theirs] : [])), problem);
}

let round = 0; // the last one counts

// prove fills in a section that says what it is about, and what the page says of that.
export async function prove(section) {
  const mine = ++round, own = stored(), about = JSON.parse(section.dataset.proof);
  let policy = own ?? "", answer;
  try {
    const tools = await import("/keytree.js");
    if (!own) {
      const response = await fetch("/explorer/state-policy");
      if (!response.ok) throw new Error("this server says of nobody that he is to be believed");
      policy = await response.text();
    }
    answer = await told(about, about.said, tools, policy);
  } catch (error) {
    answer = failed(error, { own });
  }
  if (mine !== round || !section.isConnected) return;
  section.className = `card proof ${answer.kind}`;
  section.querySelector("h2").textContent = answer.title;
  section.querySelector(".shown").replaceChildren(...answer.body);
  believe(section, own, policy);
  section.dataset.state = answer.kind;
}
