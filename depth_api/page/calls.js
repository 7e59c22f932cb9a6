// Calls to this API, from wherever it is: behind a proxy's prefix too. A key goes with each, where there is one.
const BASE = location.pathname.endsWith("/") ? location.pathname : location.pathname + "/";
let key = sessionStorage.getItem("depthline key") ?? kept("key");

class Failure extends Error {
  constructor(message, status = 0) { super(message); this.status = status }
}
const later = (seconds) => new Promise((go) => setTimeout(go, 1000 * seconds));

// The answer to a call, or a Failure with the API's own words. Waits and tries again when calls come too fast for the API.
async function call(path, options = {}) {
  for (let attempt = 1; ; attempt++) {
    let answer;
    try {
      answer = await fetch(BASE + path, {...options, headers: {...options.headers, ...(key ? {Authorization: "Bearer " + key} : {})}});
    } catch {
      throw new Failure(path.includes("/results/") || path.startsWith("v2/uploads/")
        ? "The file did not arrive. If the store is a bucket, the bucket must allow this page's address (CORS): ask its operator."
        : "The API does not answer. Is it running?");
    }
    if (answer.ok) return answer;
    const wait = Number(answer.headers.get("Retry-After"));
    if (answer.status === 429 && attempt < 5 && wait <= 5 && (await words(answer.clone())) === "too many requests") { await later(wait || 1); continue }
    throw new Failure(await words(answer), answer.status);
  }
}
async function words(answer) {
  try { return (await answer.json()).message ?? "" } catch { return `The answer was ${answer.status} ${answer.statusText}, and not this API's.` }
}
async function ask(path, options) { return (await call(path, options)).json() }
const send = (path, body) => ask(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
const fileOf = async (artwork, name, options) => (await call(`v2/artworks/${artwork.id}/results/${name}`, options)).blob();
const lastPart = (url) => url.split(/[?#]/)[0].split("/").pop();
