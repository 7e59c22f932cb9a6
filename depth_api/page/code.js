// The commands that do what the form does. They take the key from the environment.
const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

function curlCommands(body, file) {
  const auth = key ? ' -H "Authorization: Bearer $KEY"' : "", curl = "curl -sS --fail-with-body" + auth;
  const lines = [`DEPTH=${quoted((location.origin + BASE).replace(/\/$/, ""))}`];
  if (key) lines.unshift("# KEY has your API key");
  let json = quoted(JSON.stringify(body));
  if (file) {
    lines.push(`${curl} -H ${quoted("Content-Type: " + file.type)} --data-binary ${quoted("@" + file.name)} "$DEPTH/v2/uploads" -o upload.json`);
    lines.push(`image=$(python3 -c 'import json; print(json.load(open("upload.json"))["imageUrl"])')`);
    json = json.replace(JSON.stringify(body.imageUrl), `"'"$image"'"`);
  }
  lines.push(`${curl} -H 'Content-Type: application/json' -H 'Prefer: wait=60' \\`, `  -d ${json} "$DEPTH/v2/artworks/depth-map" -o artwork.json`);
  lines.push("cat artwork.json  # \"succeeded\", or ask for it again: GET /v2/artworks/{id}");
  lines.push(`id=$(python3 -c 'import json; print(json.load(open("artwork.json"))["id"])')`);
  lines.push(`${curl} -L "$DEPTH/v2/artworks/$id/results/depth.png" -o depth.png`);
  return lines.join("\n");
}

function pythonCommands(body, file) {
  const python = (value) => value === true ? "True" : value === false ? "False" : JSON.stringify(value);
  const fields = Object.entries(body).map(([name, value]) => `"${name}": ${file && name === "imageUrl" ? "image" : python(value)}`);
  const headers = key ? `, headers={"Authorization": f"Bearer {os.environ['KEY']}"}` : "";
  const upload = file ? `
    photo = open(${python(file.name)}, "rb").read()
    upload = depth.post("/v2/uploads", content=photo, headers={"Content-Type": ${python(file.type)}})
    image = upload.raise_for_status().json()["imageUrl"]` : "";
  return `${key ? "import os\n" : ""}import time

import httpx  # pip install httpx

with httpx.Client(base_url=${python((location.origin + BASE).replace(/\/$/, ""))}${headers}, timeout=60, follow_redirects=True) as depth:${upload}
    answer = depth.post("/v2/artworks/depth-map", json={${fields.join(", ")}})
    if answer.is_error:
        raise SystemExit(answer.json()["message"])
    artwork = answer.json()
    while artwork["status"] in ("starting", "processing"):
        time.sleep(0.5)
        artwork = depth.get(f"/v2/artworks/{artwork['id']}").raise_for_status().json()
    if artwork["status"] != "succeeded":
        raise SystemExit(f"{artwork['status']}: {artwork.get('error')}")
    picture = depth.get(f"/v2/artworks/{artwork['id']}/results/depth.png").raise_for_status()
    with open("depth.png", "wb") as file:
        file.write(picture.content)`;
}
