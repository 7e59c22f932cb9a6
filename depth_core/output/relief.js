// The depth map as a relief that can be turned, with the photo on it: one mesh, drawn by WebGL when something has changed.
const MOST_PLACES = 320;  // of the mesh, along its longer side
const TORN = 0.12;  // neighbours that differ by more, of a range of 1, are an edge: nothing is drawn between them
const FARTHEST = 1.1;  // radians to each side
const VERTEX = `#version 300 es
in vec3 place;
uniform vec2 turn, half_size, scale;
uniform float height;
out vec2 at;
void main() {
  at = place.xy;
  vec3 p = vec3((place.xy * 2. - 1.) * vec2(1., -1.) * half_size, (place.z - .5) * height);
  vec2 c = cos(turn), s = sin(turn);
  p = vec3(c.x * p.x + s.x * p.z, p.y, c.x * p.z - s.x * p.x);
  p = vec3(p.x, c.y * p.y - s.y * p.z, s.y * p.y + c.y * p.z);
  float away = 3. - p.z;
  gl_Position = vec4(p.xy * scale, 1.4 * away - 2.4, away);
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
uniform sampler2D photo;
in vec2 at;
out vec4 colour;
void main() { colour = texture(photo, at); }`;

class Relief {
  // Throws an Error with a message for people where the browser has no WebGL 2.
  constructor(canvas) {
    this.canvas = canvas;
    const gl = this.gl = canvas.getContext("webgl2", {preserveDrawingBuffer: true});
    if (!gl) throw new Error("The 3D view needs WebGL 2, which this browser does not have or has switched off.");
    const program = this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error("The 3D view failed: " + gl.getProgramInfoLog(program));
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    this.places = gl.createBuffer();
    this.corners = gl.createBuffer();
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const edge of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, edge, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // Shows a depth map, with a photo on it: images that have loaded. `flipped`: darker is nearer. Throws a SecurityError for
  // images that the page may not read.
  show(depth, photo, flipped) {
    const gl = this.gl, long = Math.max(depth.naturalWidth, depth.naturalHeight), shrink = Math.min(1, MOST_PLACES / long);
    const width = Math.max(2, Math.round(depth.naturalWidth * shrink)), height = Math.max(2, Math.round(depth.naturalHeight * shrink));
    this.build(pixels(depth, width, height), width, height, flipped);
    const most = Math.min(2048, gl.getParameter(gl.MAX_TEXTURE_SIZE)) / Math.max(photo.naturalWidth, photo.naturalHeight);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, most < 1 ? drawn(photo, photo.naturalWidth * most, photo.naturalHeight * most) : photo);
    this.halfSize = depth.naturalWidth > depth.naturalHeight ? [1, depth.naturalHeight / depth.naturalWidth] : [depth.naturalWidth / depth.naturalHeight, 1];
    this.turn = [0.35, 0.15];
    this.closer = 1;
    this.draw();
  }

  build(data, width, height, flipped) {
    const gl = this.gl, places = new Float32Array(3 * width * height), corners = [];
    const near = (n) => places[3 * n + 2];
    for (let n = 0; n < width * height; n++) {
      const light = data[4 * n] / 255;
      places.set([(n % width) / (width - 1), Math.floor(n / width) / (height - 1), flipped ? 1 - light : light], 3 * n);
    }
    for (let y = 0; y + 1 < height; y++) for (let x = 0; x + 1 < width; x++) {
      const n = y * width + x;
      for (const three of [[n, n + 1, n + width], [n + 1, n + width + 1, n + width]]) {
        const values = three.map(near);
        if (Math.max(...values) - Math.min(...values) < TORN) corners.push(...three);
      }
    }
    this.count = corners.length;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.places);
    gl.bufferData(gl.ARRAY_BUFFER, places, gl.STATIC_DRAW);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.corners);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint32Array(corners), gl.STATIC_DRAW);
    const place = gl.getAttribLocation(this.program, "place");
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
  }

  draw() {
    const {gl, canvas} = this, set = (name) => gl.getUniformLocation(this.program, name);
    if (!this.count || !canvas.clientWidth) return;
    const sharp = Math.min(devicePixelRatio || 1, 2);
    canvas.width = Math.round(canvas.clientWidth * sharp);
    canvas.height = Math.round(canvas.clientHeight * sharp);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const wide = canvas.width / canvas.height, [x, y] = this.halfSize;
    const size = 2.2 * this.closer * Math.min(wide / x, 1 / y);
    gl.uniform2fv(set("turn"), this.turn);
    gl.uniform2fv(set("half_size"), this.halfSize);
    gl.uniform2fv(set("scale"), [size / wide, size]);
    gl.uniform1f(set("height"), 0.6);
    gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
  }

  move(right, down, closer = 1) {
    const within = (value, most) => Math.max(-most, Math.min(most, value));
    this.turn = [within(this.turn[0] + right, FARTHEST), within(this.turn[1] + down, FARTHEST)];
    this.closer = Math.max(0.5, Math.min(3, this.closer * closer));
    this.draw();
  }

  listen() {
    const {canvas} = this;
    let last = null;
    canvas.addEventListener("pointerdown", (event) => { last = event; canvas.setPointerCapture(event.pointerId) });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      this.move((event.clientX - last.clientX) / 200, (event.clientY - last.clientY) / 200);
      last = event;
    });
    canvas.addEventListener("keydown", (event) => {
      const step = {ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1], "+": [0, 0, 1.15], "-": [0, 0, 1 / 1.15]}[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.move(...step);
    });
  }
}

function drawn(image, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), {width: Math.round(width), height: Math.round(height)});
  canvas.getContext("2d", {willReadFrequently: true}).drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}
function pixels(image, width, height) { return drawn(image, width, height).getContext("2d").getImageData(0, 0, width, height).data }
