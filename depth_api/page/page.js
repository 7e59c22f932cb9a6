// The page itself: the key, the form, and one artwork that is watched until it has ended.
const form = find("#request"), state = find("#status"), make = find("#make"), cancel = find("#cancel"), choice = find("#model");
const ENDED = ["succeeded", "failed", "canceled"], TEMPORARY = ["unreachable", "timeout", "rate_limited", "server_error", "out_of_memory", "internal"];
let models = [], file = null, watched = null;

// -- start, and the key

async function start() {
  find("#docs")?.setAttribute("href", BASE + "docs");
  find("#trouble").hidden = true;
  try {
    models = await ask("v2/models");
  } catch (failure) {
    if (failure.status === 401 || failure.status === 429) { askForKey(key ? failure.message : ""); return }
    find("#trouble").textContent = failure.message;
    find("#trouble").hidden = false;
    return;
  }
  find("#key-form").hidden = true;
  find("#key-kept").hidden = !key;
  find("main").hidden = false;
  showModels();
  await showRecent();
}
function askForKey(message) {
  find("#key-error").textContent = message;
  find("main").hidden = true;
  find("#key-kept").hidden = true;
  find("#key-form").hidden = false;
  find("#key").focus();
}
find("#key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("#key").value.trim();
  sessionStorage.setItem("depthline key", key);
  keep("key", find("#key-keep").checked ? key : null);
  find("#key").value = "";
  start();
});
find("#forget").addEventListener("click", () => {
  sessionStorage.removeItem("depthline key");
  keep("key", null);
  location.reload();  // and with it everything that the key had opened
});

// -- the form

const chosenModel = () => models[choice.selectedIndex < 0 ? 0 : Number(choice.value)];

function showModels() {
  const families = Map.groupBy ? Map.groupBy(models, (model) => model.family) : new Map([["Models", models]]);
  choice.replaceChildren();
  for (const [family, ofFamily] of families) {
    const group = choice.appendChild(Object.assign(document.createElement("optgroup"), {label: family}));
    for (const model of ofFamily) {
      const can = model.available || model.onDemand;
      const option = new Option(model.name + (model.available ? "" : can ? " (fetched first)" : `: ${model.reason ?? "cannot be used"}`), models.indexOf(model));
      option.disabled = !can;
      group.append(option);
    }
  }
  const remembered = models.findIndex((model) => model.available && `${model.family} ${model.name}` === kept("model"));
  const large = models.findIndex((model) => model.available && model.name === "large" && !model.useVersion3);
  choice.value = [remembered, large, models.findLastIndex((model) => model.available && !model.useVersion3), 0].find((at) => at >= 0);
  showModel();
}
function showModel() {
  const model = chosenModel(), {default: limit, recommended, advice} = model.resolutionLowerLimit;
  const numbers = model.kind.replaceAll("_", " ") + (model.unit ? `, in ${model.unit === "m" ? "metres" : model.unit}` : "");
  find("#model-help").textContent = `Licence ${model.licence}. Its numbers: ${numbers}.` + (model.available ? "" : ` ${model.reason ?? ""}.`);
  find("#mode").replaceChildren(...model.normalizationModes.map((mode) => new Option(mode)));
  find("#mode").disabled = model.normalizationModes.length < 2;
  find("#limit").placeholder = limit;
  find("#limits").replaceChildren(...recommended.map((value) => new Option(value)));
  find("#limit-help").textContent = `Empty: ${limit}. ${advice}.`;
  showCode();
}
choice.addEventListener("change", () => { keep("model", `${chosenModel().family} ${chosenModel().name}`); showModel() });

function choose(picked) {
  file = picked;
  const image = find("#chosen");
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = find("#chosen-name").hidden = !file;
  find("#choose").hidden = find("#url").disabled = Boolean(file);
  if (file) {
    image.src = URL.createObjectURL(file);
    image.onerror = () => { image.hidden = true };
    find("#chosen-name span").textContent = file.name;
  } else image.removeAttribute("src"), find("#file").value = "";
  showCode();
}
find("#file").addEventListener("change", () => find("#file").files.length && choose(find("#file").files[0]));
find("#unchoose").addEventListener("click", () => { choose(null); find("#file").focus() });
addEventListener("paste", (event) => {
  const pasted = [...event.clipboardData.files][0], text = event.clipboardData.getData("text").trim();
  if (find("main").hidden) return;
  if (pasted) { event.preventDefault(); choose(pasted) }
  else if (/^https?:/.test(text) && event.target !== find("#url")) { event.preventDefault(); choose(null); find("#url").value = text; showCode() }
});
for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, (event) => {
  if (find("main").hidden || !event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  find("#drop").classList.toggle("over", kind === "dragover");
  if (kind === "drop" && event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
});

// The request as the form has it; what is at its default is left out.
function body(imageUrl) {
  const model = chosenModel(), chosen = {imageUrl, model: model.name};
  if (model.useVersion3) chosen.useVersion3 = true;
  if (find("#limit").value) chosen.resolutionLowerLimit = Number(find("#limit").value);
  if (find("#mode").value !== "Standard") chosen.normalizationMode = find("#mode").value;
  if (find("#invert").checked) chosen.invertDepth = true;
  if (!find("#resize").checked) chosen.usePostResize = false;
  return chosen;
}
const typeOf = (photo) => photo.type.startsWith("image/") ? photo.type : "application/octet-stream";

// -- one artwork

function say(...lines) {
  state.className = "";
  const shownLines = lines.filter(Boolean);
  if (shownLines.join("\n") === state.innerText) return;  // nothing new: a screen reader stays quiet
  state.replaceChildren(...shownLines.map((text) => Object.assign(document.createElement("p"), {textContent: text})));
}
function sayFailed(...lines) { say(...lines); state.className = "failed" }
function sayBusy(...lines) { say(...lines); state.firstChild.className = "busy" }

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const url = find("#url").value.trim(), photo = file;
  if (!photo && !url) { sayFailed("Choose a photo, or paste its URL."); find("#url").focus(); return }
  make.disabled = true;
  try {
    if (photo) sayBusy("Sending the photo");
    const imageUrl = photo ? (await ask("v2/uploads", {method: "POST", headers: {"Content-Type": typeOf(photo)}, body: photo})).imageUrl : url;
    await watch(await send("v2/artworks/depth-map", body(imageUrl)), photo);
  } catch (failure) { sayFailed(failure.message) }
  make.disabled = false;
});

// Follows an artwork until it has ended, or another one is followed, and shows it.
async function watch(artwork, photo = null) {
  watched = artwork.id;
  const since = Date.now();
  cancel.hidden = ENDED.includes(artwork.status);
  showRecent().catch(() => {});
  try {
    for (let help = ""; !ENDED.includes(artwork.status); artwork = await ask("v2/artworks/" + artwork.id)) {
      const seconds = Math.floor((Date.now() - since) / 1000);
      if (artwork.status === "starting" && seconds >= 2) help = await whyItWaits();
      sayBusy(artwork.status === "starting" ? "Starting: it waits for a worker" : "Processing: a worker has it", artwork.status === "starting" && help);
      await later(seconds < 20 ? 0.5 : 2);
      if (watched !== artwork.id) return;
    }
    if (artwork.status === "succeeded") {
      await showResult(artwork, photo);
      say("Succeeded");
      find(".view").scrollIntoView({block: "nearest"});  // on a phone it is below the form
    } else if (artwork.status === "canceled") say("Cancelled");
    else sayFailed(`Failed: ${artwork.error.message}`, `${artwork.error.kind}. ${TEMPORARY.includes(artwork.error.kind) ? "Another try may help." : "Another try gives the same."}`);
    await showRecent();
  } finally { if (watched === artwork.id) { watched = null; cancel.hidden = true } }
}

async function whyItWaits() {
  try {
    const {liveWorkers, waiting} = await ask("health/ready");
    return liveWorkers ? `${waiting} wait.` : "No worker is running. With Dagster (make up) one starts by itself within seconds; without it, start one: depthline worker";
  } catch { return "" }
}

cancel.addEventListener("click", async () => {
  try { await ask(`v2/artworks/${watched}/cancel`, {method: "POST"}) } catch (failure) { sayFailed(failure.message) }
});

async function openArtwork(artwork) {
  make.disabled = true;
  try { await watch(artwork) } catch (failure) { sayFailed(failure.message) }
  make.disabled = false;
}

// -- the code

let language = "curl";
function showCode() {
  const named = file && {name: file.name, type: typeOf(file)};
  const request = body(file ? "" : find("#url").value.trim() || "https://example.com/photo.jpg");
  find("#code").textContent = (language === "curl" ? curlCommands : pythonCommands)(request, named);
  for (const button of all("[data-code]")) button.setAttribute("aria-pressed", button.dataset.code === language);
}
for (const button of all("[data-code]")) button.addEventListener("click", () => { language = button.dataset.code; showCode() });
form.addEventListener("input", () => models.length && showCode());
find("#copy").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(find("#code").textContent) } catch { getSelection().selectAllChildren(find("#code")); return }
  find("#copy").textContent = "Copied";
  await later(2);
  find("#copy").textContent = "Copy";
});

addColourMaps(find("#colours"));
start().catch((failure) => { find("#trouble").textContent = failure.message; find("#trouble").hidden = false });
