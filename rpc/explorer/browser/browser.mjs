// Drives a browser as the test on the other end of the pipe says: a line of JSON is an order, a line of
// JSON the answer. The test decides what is right.
import { createInterface } from "node:readline";
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const axe = await readFile(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const browser = await chromium.launch({ executablePath: process.argv[2], args: ["--no-sandbox"] });

let page;
let inside; // the page, for what playwright has no words for
let view = ""; // how the page is shown
let problems = [];
let origin = ""; // of the page: it may ask nobody else

const orders = {
  // open shows a page, in a window of some width, in light or dark, with or without scripts.
  // A fresh one has nothing from before.
  async open({ url, width = 1280, dark = false, scripts = true, fresh = false }) {
    problems = [];
    origin = new URL(url).origin;
    if (fresh || view !== `${width} ${dark} ${scripts}`) {
      view = `${width} ${dark} ${scripts}`;
      await page?.context().close();
      const context = await browser.newContext({
        viewport: { width, height: 900 }, colorScheme: dark ? "dark" : "light", javaScriptEnabled: scripts, reducedMotion: "reduce",
      });
      page = await context.newPage();
      inside = await context.newCDPSession(page);
      await inside.send("Performance.enable", { timeDomain: "threadTicks" });
      page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
      page.on("pageerror", (error) => problems.push(String(error)));
      page.on("dialog", (dialog) => { problems.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
      page.on("request", (request) => { if (new URL(request.url()).origin !== origin) problems.push(`another origin: ${request.url()}`); });
    }
    const response = await page.goto(url, { waitUntil: "load" });
    return { status: response.status() };
  },
  // check looks for what is wrong with the page as it is. axe runs in the page's own world, past its policy.
  async check({ accessibility = false }) {
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    let violations = [];
    if (accessibility) {
      await page.evaluate(axe);
      const result = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
      violations = result.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).slice(0, 3).join(" | ")}`);
    }
    return { problems, violations, overflow: wide };
  },
  async text({ selector = "main" }) {
    return { text: (await page.locator(selector).first().innerText()).replace(/\s+/g, " "), url: page.url() };
  },
  // wait until the text is somewhere in what the selector finds.
  async wait({ selector = "body", text }) {
    await page.locator(selector).filter({ hasText: text }).first().waitFor({ timeout: 60_000 });
    return {};
  },
  // expect says that what is clicked next leads to another origin.
  async expect(order) { origin = order.origin; return {}; },
  async click({ selector }) { await page.locator(selector).first().click({ timeout: 60_000 }); return {}; },
  async fill({ selector, text }) { await page.locator(selector).first().fill(text); return {}; },
  async press({ keys }) { for (const key of keys) await page.keyboard.press(key); return {}; },
  async count({ selector }) { return { count: await page.locator(selector).count() }; },
  async focused() { return { text: await page.evaluate(() => document.activeElement?.outerHTML.slice(0, 200) ?? "") }; },
  async picture({ file, full = true }) { await page.screenshot({ path: file, fullPage: full }); return {}; },
  // evaluate runs a script of the test's own in the page, past its policy.
  async evaluate({ script }) { return { value: await page.evaluate(script) }; },
  // until waits for a script of the test's own to be true of the page.
  async until({ script }) {
    for (const end = Date.now() + 60_000; ;) {
      let last = "it is not so";
      // While a page makes room for the next one it cannot be asked.
      if (await page.evaluate(script).catch((error) => { last = error; return false; })) return {};
      if (Date.now() > end) throw new Error(`${script}: ${last}`);
      await new Promise((done) => { setTimeout(done, 30); });
    }
  },
  // frames says where the frames in the page are, and what they show.
  async frames() {
    const list = [];
    for (const frame of page.frames().slice(1)) list.push(`${frame.url()} ${await frame.locator("body").innerText().catch(() => "")}`);
    return { frames: list };
  },
  // tab says what the page's process holds, in bytes, when its garbage is gone, and how many seconds of the processor
  // its main thread has had until then, and with that.
  async tab() {
    const measure = async () => Object.fromEntries((await inside.send("Performance.getMetrics")).metrics.map(({ name, value }) => [name, value]));
    const before = await measure();
    await inside.send("HeapProfiler.collectGarbage");
    const after = await measure();
    const all = await browser.newBrowserCDPSession();
    const { processInfo } = await all.send("SystemInfo.getProcessInfo");
    await all.detach();
    const tab = { scripts: after.JSHeapUsedSize, nodes: after.Nodes, worked: before.TaskDuration, from: after.TaskDuration, private: 0, share: 0, resident: 0 };
    if (process.platform !== "linux") return { tab }; // where what a process holds is not told in files
    for (const { id } of processInfo.filter((one) => one.type === "renderer")) {
      const kilobytes = {};
      for (const [, name, value] of (await readFile(`/proc/${id}/smaps_rollup`, "utf8")).matchAll(/^(\w+): +(\d+) kB/gm)) kilobytes[name] = Number(value);
      // Of several processes, an empty one that waits for the next page is the smaller one.
      tab.private = Math.max(tab.private, 1024 * (kilobytes.Private_Clean + kilobytes.Private_Dirty));
      tab.share = Math.max(tab.share, 1024 * kilobytes.Pss);
      tab.resident = Math.max(tab.resident, 1024 * kilobytes.Rss);
    }
    return { tab };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  let answer;
  try {
    answer = await orders[order.do](order);
  } catch (error) {
    answer = { failed: String(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await browser.close();
