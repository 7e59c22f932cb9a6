// Photo beside depth map: the slider, the colour maps, light and dark. Used by the gallery and by the API's page.
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// What a browser keeps of a page. It may refuse, for example for a page from a folder; then nothing is kept.
function kept(name) { try { return localStorage.getItem("depthline " + name) } catch { return null } }
function keep(name, value) {
  try { value === null ? localStorage.removeItem("depthline " + name) : localStorage.setItem("depthline " + name, value) } catch {}
}

document.documentElement.style.colorScheme = kept("theme") ?? "";
find("#theme").addEventListener("click", () => {
  const root = document.documentElement, now = getComputedStyle(root).colorScheme;
  const dark = now === "dark" || (now !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.style.colorScheme = dark ? "light" : "dark";
  keep("theme", root.style.colorScheme);
});

const under = find("#under"), over = find("#over"), cut = find("#cut"), frame = find(".frame");
function slide() { frame.style.setProperty("--cut", cut.value + "%") }
cut.addEventListener("input", slide);

// Colours from far to near. A filter of the page colours what it shows without reading it: a page from a folder may not read.
const COLOUR_MAPS = {
  Inferno: "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
  Viridis: "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
  Turbo: "30123b 4145ab 4675ed 39a2fc 1bcfd4 24eca6 61fc6c a4fc3b d1e834 f3c63a fe9b2d f36315 d93806 b11901 7a0402",
};
function addColourMaps(select) {
  const values = (colours, at) => colours.split(" ").map((colour) => parseInt(colour.slice(2 * at, 2 * at + 2), 16) / 255).join(" ");
  const filters = Object.entries(COLOUR_MAPS).map(([name, colours]) => {
    const channels = ["R", "G", "B"].map((channel, at) => `<feFunc${channel} type="table" tableValues="${values(colours, at)}"/>`);
    return `<filter id="colours-${name}" color-interpolation-filters="sRGB"><feComponentTransfer>${channels.join("")}</feComponentTransfer></filter>`;
  });
  document.body.insertAdjacentHTML("beforeend", `<svg width="0" height="0" aria-hidden="true">${filters.join("")}</svg>`);
  select.append(new Option("Gray", ""), ...Object.keys(COLOUR_MAPS).map((name) => new Option(name, name)));
  select.addEventListener("change", () => { colour(select); keep("colours", select.value) });
  select.value = kept("colours") in COLOUR_MAPS ? kept("colours") : "";
  colour(select);
}
function colour(select) { over.style.filter = select.value ? `url("#colours-${select.value}")` : "" }
