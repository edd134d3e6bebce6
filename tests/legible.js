// What is wrong with the text of a page: cut, overlapping (by more than a pixel), small or faint.

const faults = [];
const page = document.documentElement;
if (page.scrollWidth > innerWidth) faults.push(`scrolls sideways: ${page.scrollWidth} > ${innerWidth}`);
const colour = (text) => { const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const found = colour(getComputedStyle(e).backgroundColor);
    if (found[3] > 0) return found;
  }
  return [255, 255, 255, 1];
};
for (const element of document.querySelectorAll("body *")) {
  if (element.closest("script, noscript, [hidden]")) continue;
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own) continue;
  const style = getComputedStyle(element);
  const what = `${element.tagName} "${element.textContent.trim().slice(0, 30)}"`;
  if (parseFloat(style.fontSize) < 12) faults.push(`small, ${style.fontSize}: ${what}`);
  const [a, b] = [light(colour(element.closest("svg") ? style.fill : style.color)), light(behind(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) faults.push(`faint, ${contrast.toFixed(2)}: ${what}`);
  const box = element.getBoundingClientRect();
  if (box.left < -1 || box.right > innerWidth + 1) faults.push(`cut by the page: ${what}`);
}
const apart = (boxes, where) => boxes.forEach(([a, first], k) => boxes.slice(k + 1).forEach(([b, second]) => {
  if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
    faults.push(`overlap in ${where}: "${first}" and "${second}"`);
}));
const boxed = (elements) => [...elements].map((e) => [e.getBoundingClientRect(), e.textContent.trim().slice(0, 40)]);
for (const svg of document.querySelectorAll("figcaption ~ svg")) {
  const frame = svg.getBoundingClientRect();
  const texts = boxed(svg.querySelectorAll("text"));
  if (texts.length < 3) faults.push(`no labels in ${svg.parentNode.id}`);
  for (const [box, text] of texts) {
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
      faults.push(`cut in ${svg.parentNode.id}: "${text}"`);
  }
  apart(texts, svg.parentNode.id);
}
apart(boxed(document.querySelectorAll("h1, h2, p:not([hidden]), label, output, input, .legend li, th, td, figure > svg")), "the page");
return faults;
