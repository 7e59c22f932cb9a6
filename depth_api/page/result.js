// What the page shows of an artwork: photo and depth map, the relief, the files, and the list of recent ones.
const relief = find("#relief"), solid = find("#solid"), note = find("#note");
let shown = null, view = null, alone = false, urls = [], facts = "";  // the artwork that is shown; its relief, without photo; blob URLs to let go; what the note says of it

function blobUrl(blob) { const url = URL.createObjectURL(blob); urls.push(url); return url }

// Loads a picture into an image; false when it cannot be shown. `readable`: for the relief, which a photo of another site may not be.
async function load(image, url, readable = true) {
  image.crossOrigin = readable && !url.startsWith("blob:") ? "anonymous" : null;
  image.src = url;
  try { await image.decode(); return true } catch { return false }
}

async function loadPhoto(artwork, local) {
  const url = artwork.parameters.imageUrl, upload = /\/v2\/uploads\/([0-9a-f-]{36})$/.exec(url)?.[1];
  try {
    if (local) return await load(under, blobUrl(local));
    if (upload) return await load(under, blobUrl(await (await call("v2/uploads/" + upload)).blob()));
  } catch { return false }
  if (!/^https?:/.test(url)) return false;
  return await load(under, url) || await load(under, url, false);
}

function flat() {
  relief.hidden = true;
  solid.setAttribute("aria-pressed", false);
  frame.classList.remove("solid");
  cut.hidden = frame.classList.contains("whole");
  note.textContent = facts;
}

// Shows an artwork that has succeeded. `local`: its photo, where the page has it.
async function showResult(artwork, local = null) {
  shown = artwork;
  const before = urls;
  urls = [];
  const depth = blobUrl(await fileOf(artwork, "depth.png"));
  if (shown !== artwork) return;
  await load(over, depth);
  const photo = await loadPhoto(artwork, local);
  if (shown !== artwork) return;
  find("#nothing").hidden = true;
  find("#result").hidden = false;
  const sized = photo ? under : over;
  frame.style.setProperty("--ratio", sized.naturalWidth / sized.naturalHeight);
  frame.classList.toggle("whole", !photo);
  if (!photo) under.removeAttribute("src");
  cut.value = photo ? 50 : 0;
  slide();
  facts = `${over.naturalWidth} × ${over.naturalHeight}, ${modelName(artwork.parameters)}, ${artwork.duration.toFixed(2)} s of work`
    + (photo ? "" : ". The photo cannot be shown: this browser does not get it, or not in a format that it reads");
  flat();
  find("#files").replaceChildren(...artwork.results.map((url) => fileButton(artwork, lastPart(url))));
  before.forEach(URL.revokeObjectURL);
  markCurrent();
}

const modelName = ({model, useVersion3}) => model + (model === "tiny" ? "" : useVersion3 ? " V3" : " V2");

function fileButton(artwork, name) {
  const button = Object.assign(document.createElement("button"), {type: "button", textContent: name, title: "Save " + name});
  button.addEventListener("click", async () => {
    try {
      const link = Object.assign(document.createElement("a"), {href: blobUrl(await fileOf(artwork, name)), download: name});
      link.click();
    } catch (failure) { note.textContent = failure.message }
  });
  return button;
}

solid.addEventListener("click", () => {
  if (!relief.hidden) { flat(); return }
  relief.hidden = false;
  cut.hidden = true;
  try {
    view ??= new Relief(relief);
    const flipped = shown.parameters.invertDepth;
    alone = frame.classList.contains("whole");
    note.textContent = "Drag it, or use the arrow keys, to turn it; + and - change its size";
    try { view.show(over, alone ? over : under, flipped) } catch (error) {
      if (error.name !== "SecurityError") throw error;
      alone = true;
      view.show(over, over, flipped);
      note.textContent += ". The photo's site does not let this page read it, so the relief shows the depth map alone";
    }
    colourRelief();
    solid.setAttribute("aria-pressed", true);
    frame.classList.add("solid");
    relief.focus();
  } catch (error) { flat(); note.textContent = error.message }
});

function colourRelief() { relief.style.filter = alone ? over.style.filter : "" }
find("#colours").addEventListener("change", () => setTimeout(colourRelief));

// -- recent artworks

const thumbnails = new Map();  // id -> canvas, so that a list that is drawn again fetches nothing again
let queue = Promise.resolve();
const seen = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) if (isIntersecting) {
    seen.unobserve(target);
    queue = queue.then(() => thumbnail(target)).catch(() => { target.textContent = "no picture" });  // one at a time: they are whole depth maps
  }
});
async function thumbnail(place) {
  const artwork = place.artwork;
  if (!thumbnails.has(artwork.id)) {
    const bitmap = await createImageBitmap(await fileOf(artwork, "depth.png"), {resizeWidth: 280, resizeQuality: "medium"});
    const canvas = Object.assign(document.createElement("canvas"), {width: bitmap.width, height: bitmap.height});
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    thumbnails.set(artwork.id, canvas);
  }
  place.replaceChildren(thumbnails.get(artwork.id));
}

async function showRecent() {
  const artworks = await ask("v2/artworks?limit=12");
  find("#recent").hidden = !artworks.length;
  find("#list").replaceChildren(...artworks.map(card));
  markCurrent();
}
function card(artwork) {
  const item = document.createElement("li"), button = item.appendChild(document.createElement("button"));
  const place = button.appendChild(Object.assign(document.createElement("span"), {className: "thumbnail", artwork}));
  const name = lastPart(artwork.parameters.imageUrl), uploaded = artwork.parameters.imageUrl.includes("/v2/uploads/");
  button.append(Object.assign(document.createElement("span"), {className: "name", textContent: uploaded ? "Upload" : name || artwork.parameters.imageUrl}));
  button.append(Object.assign(document.createElement("small"), {textContent: `${modelName(artwork.parameters)} · ${new Date(artwork.createdAt).toLocaleString([], {dateStyle: "short", timeStyle: "short"})}`}));
  button.type = "button";
  button.dataset.id = artwork.id;
  if (artwork.status === "succeeded") seen.observe(place); else place.textContent = artwork.status;
  button.addEventListener("click", () => openArtwork(artwork));
  return item;
}
function markCurrent() { for (const button of all("#list button")) button.setAttribute("aria-current", button.dataset.id === shown?.id) }
