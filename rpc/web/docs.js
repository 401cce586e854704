// Lets the calls of the page be tried: adds to each a form that makes it. The page says all
// there is to know without it.
"use strict";

// most is how many characters of an answer are shown.
const most = 100_000;

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// show shows what a request was answered.
async function show(output, request, response) {
  const type = response.headers.get("Content-Type") ?? "";
  const line = element("p", { className: response.ok ? "" : "bad" }, `${request}: ${response.status} ${response.statusText}`);
  const wait = response.headers.get("Retry-After");
  if (wait) line.append(`, try again in ${wait} s`);
  let text;
  if (type.startsWith("application/json")) {
    text = await response.text();
    try {
      text = JSON.stringify(JSON.parse(text), null, 1);
    } catch {
      // It is shown as it came.
    }
  } else if (type.startsWith("text/")) {
    text = await response.text();
  } else {
    text = `${(await response.arrayBuffer()).byteLength} bytes of ${type || "no type"}`;
  }
  if (text.length > most) text = text.slice(0, most) + `\n… ${text.length - most} characters more`;
  output.replaceChildren(line, element("pre", { tabIndex: 0 }, text));
}

function tryable(article) {
  const { method, path, body } = article.dataset;
  const form = element("form", {});
  const inputs = [];
  for (const row of article.querySelectorAll("tr[data-name]")) {
    const { name, in: where, example } = row.dataset;
    const input = element("input", { name, value: example, required: where === "path", autocomplete: "off", spellcheck: false });
    inputs.push({ input, name, where });
    form.append(element("label", {}, name, input));
  }
  let text;
  if (body) {
    text = element("textarea", { name: "body", spellcheck: false, value: "{}" });
    form.append(element("label", {}, `body, a ${body} in JSON`, text));
  }
  const output = element("output", {});
  form.append(element("button", { type: "submit" }, "Send"), output);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let to = path;
    const query = new URLSearchParams();
    for (const { input, name, where } of inputs) {
      if (where === "path") to = to.replace(`{${name}}`, encodeURIComponent(input.value.trim()));
      else if (input.value.trim() !== "") query.set(name, input.value.trim());
    }
    if (query.size > 0) to += `?${query}`;
    const request = `${method} ${to}`;
    output.replaceChildren(element("p", {}, `${request} …`));
    try {
      const options = { method };
      if (text) Object.assign(options, { body: text.value, headers: { "Content-Type": "application/json" } });
      await show(output, request, await fetch(to, options));
    } catch (failure) {
      output.replaceChildren(element("p", { className: "bad" }, `${request}: ${failure.message}`));
    }
  });
  article.append(element("details", {}, element("summary", {}, "Try it"), form));
}

for (const article of document.querySelectorAll("article[data-path]")) tryable(article);
