// node screenshot.mjs PAGE.html OUT.png: the page as a browser draws it, from the last device's chart to the models'.
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const [, , page, out] = process.argv;
const browser = await puppeteer.launch({
  args: chromium.args,
  executablePath: await chromium.executablePath(),
  headless: "shell",
});
const tab = await browser.newPage();
await tab.setViewport({ width: 1180, height: 980, deviceScaleFactor: 1 });
await tab.goto(`file://${page}`);
await tab.waitForSelector("html[data-drawn]");
const charts = await Promise.all((await tab.$$(".chart")).map((chart) => chart.boundingBox()));
const [first, last] = charts.slice(-2);
const clip = { x: 0, y: first.y - 12, width: 1180, height: last.y + last.height - first.y + 24 };
await tab.screenshot({ path: out, clip });
await browser.close();
