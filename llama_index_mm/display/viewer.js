"use strict";
// Lets every mesh of the page turn. All are drawn by one WebGL context, since browsers give a page few of them, and copied
// into a canvas each. Where there is no WebGL, faces are painted from far to near. What stands in an element with data-mesh is
// shown until the mesh was drawn, and stays where that fails.
(() => {
  const HOME = { turn: -Math.PI / 6, tilt: (25 * Math.PI) / 180, zoom: 1 }; // the first view of the sheet
  const HALF = (20 * Math.PI) / 180; // of the field of view
  const DISTANCE = 1 / Math.sin(HALF); // of the camera from the middle of the unit sphere
  const FOCUS = 0.98 / Math.tan(HALF);
  const CREASE = 0.75; // cosine between faces that look like one round surface
  const LIGHT = [-0.34, 0.42, 0.84]; // the camera's upper left
  const DARK = [0.27, 0.3, 0.35];
  const BRIGHT = [0.6, 0.59, 0.57]; // added in full light

  const VERTEX = `
    attribute vec3 place; attribute vec3 normal; uniform mat3 turned; uniform vec2 scale; uniform float away; varying vec3 facing;
    void main() {
      vec3 p = turned * place; float depth = away - p.z;
      facing = turned * normal;
      gl_Position = vec4(scale * p.xy, (away * depth - away * away + 1.21) / 1.1, depth);
    }`;
  const FRAGMENT = `
    precision mediump float; varying vec3 facing; uniform vec3 light, dark, bright;
    void main() {
      vec3 n = normalize(facing + vec3(0.0, 0.0, 1e-4));
      gl_FragColor = vec4(dark + bright * max(0.0, dot(n.z < 0.0 ? -n : n, light)), 1.0);
    }`;

  // -- from base64 to triangles: 16-bit places, then 16-bit corners ------------------------------------------------------
  function decode(box) {
    const bytes = Uint8Array.from(atob(box.dataset.mesh), (one) => one.charCodeAt(0));
    const whole = new Uint16Array(bytes.length >> 1).map((_, at) => bytes[2 * at] | (bytes[2 * at + 1] << 8));
    const places = Float32Array.from(whole.subarray(0, 3 * Number(box.dataset.vertices)));
    const corners = whole.subarray(places.length);
    for (let axis = 0; axis < 3; axis++) {
      let [low, high] = [Infinity, -Infinity];
      for (let at = axis; at < places.length; at += 3) [low, high] = [Math.min(low, places[at]), Math.max(high, places[at])];
      for (let at = axis; at < places.length; at += 3) places[at] -= (low + high) / 2;
    }
    let radius = 0;
    for (let at = 0; at < places.length; at += 3) radius = Math.max(radius, Math.hypot(...places.subarray(at, at + 3)));
    return { places: places.map((one) => one / radius), corners };
  }

  // Normals of corners: those of the faces around a vertex that bend but little, weighed by area.
  function smooth({ places, corners }) {
    const count = corners.length / 3;
    const flat = new Float32Array(corners.length);
    const around = Array.from({ length: places.length / 3 }, () => []);
    for (let face = 0; face < count; face++) {
      const [a, b, c] = [0, 1, 2].map((at) => 3 * corners[3 * face + at]);
      const u = [0, 1, 2].map((axis) => places[b + axis] - places[a + axis]);
      const v = [0, 1, 2].map((axis) => places[c + axis] - places[a + axis]);
      flat.set([u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]], 3 * face);
      for (let at = 0; at < 3; at++) around[corners[3 * face + at]].push(face);
    }
    const length = (face) => Math.hypot(flat[3 * face], flat[3 * face + 1], flat[3 * face + 2]) || 1;
    const dot = (f, g) => flat[3 * f] * flat[3 * g] + flat[3 * f + 1] * flat[3 * g + 1] + flat[3 * f + 2] * flat[3 * g + 2];
    const soup = new Float32Array(6 * corners.length); // place and normal of each corner
    for (let at = 0; at < corners.length; at++) {
      const face = Math.floor(at / 3);
      const sum = [0, 0, 0];
      const near = around[corners[at]].length > 64 ? [face] : around[corners[at]];
      for (const other of near) {
        const bend = dot(face, other) / (length(face) * length(other));
        if (other === face || Math.abs(bend) > CREASE)
          for (let axis = 0; axis < 3; axis++) sum[axis] += (bend < 0 ? -1 : 1) * flat[3 * other + axis];
      }
      const size = Math.hypot(...sum) || 1;
      soup.set(places.subarray(3 * corners[at], 3 * corners[at] + 3), 6 * at);
      soup.set(sum.map((one) => one / size), 6 * at + 3);
    }
    return soup;
  }

  // Columns of the matrix that turns about y, then tilts about x.
  function matrix({ turn, tilt }) {
    const [s, c, t, d] = [Math.sin(turn), Math.cos(turn), Math.sin(tilt), Math.cos(tilt)];
    return [c, s * t, -s * d, 0, d, t, s, -c * t, c * d];
  }

  function scales(view, width, height) {
    const least = Math.min(width, height);
    return [(FOCUS * view.zoom * least) / width, (FOCUS * view.zoom * least) / height];
  }

  // -- two ways to draw --------------------------------------------------------------------------------------------------
  function openWebGL() {
    const gl = document.createElement("canvas").getContext("webgl", { antialias: true });
    if (!gl) return null;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    const uniform = (name) => gl.getUniformLocation(program, name);
    gl.uniform1f(uniform("away"), DISTANCE);
    gl.uniform3fv(uniform("light"), LIGHT);
    gl.uniform3fv(uniform("dark"), DARK);
    gl.uniform3fv(uniform("bright"), BRIGHT);
    return (mesh, context, view) => {
      if (gl.isContextLost()) return false;
      const { width, height } = context.canvas;
      if (gl.canvas.width !== width || gl.canvas.height !== height) Object.assign(gl.canvas, { width, height });
      gl.viewport(0, 0, width, height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      if (mesh.buffer) gl.bindBuffer(gl.ARRAY_BUFFER, mesh.buffer);
      else {
        gl.bindBuffer(gl.ARRAY_BUFFER, (mesh.buffer = gl.createBuffer()));
        gl.bufferData(gl.ARRAY_BUFFER, mesh.soup, gl.STATIC_DRAW);
      }
      for (const [name, offset] of [["place", 0], ["normal", 12]]) {
        const at = gl.getAttribLocation(program, name);
        gl.enableVertexAttribArray(at);
        gl.vertexAttribPointer(at, 3, gl.FLOAT, false, 24, offset);
      }
      gl.uniformMatrix3fv(uniform("turned"), false, matrix(view));
      gl.uniform2fv(uniform("scale"), scales(view, width, height));
      gl.drawArrays(gl.TRIANGLES, 0, mesh.soup.length / 6);
      context.clearRect(0, 0, width, height);
      context.drawImage(gl.canvas, 0, 0);
      return true;
    };
  }

  function paint(mesh, context, view) {
    const { width, height } = context.canvas;
    const [m, [across, up]] = [matrix(view), scales(view, width, height)];
    const turned = (at) => [0, 1, 2].map((row) => m[row] * mesh.soup[at] + m[3 + row] * mesh.soup[at + 1] + m[6 + row] * mesh.soup[at + 2]);
    const faces = [];
    for (let at = 0; at < mesh.soup.length; at += 18) {
      const points = [0, 6, 12].map((next) => turned(at + next));
      const normals = [3, 9, 15].map((next) => turned(at + next));
      const sum = [0, 1, 2].map((axis) => (normals[0][axis] + normals[1][axis] + normals[2][axis]) / 3);
      const lit = Math.max(0, (sum[2] < 0 ? -1 : 1) * (sum[0] * LIGHT[0] + sum[1] * LIGHT[1] + sum[2] * LIGHT[2]));
      faces.push({ points, depth: points[0][2] + points[1][2] + points[2][2], lit });
    }
    context.clearRect(0, 0, width, height);
    for (const { points, lit } of faces.sort((a, b) => a.depth - b.depth)) {
      const colour = DARK.map((one, at) => Math.round(255 * (one + BRIGHT[at] * lit))).join(",");
      context.fillStyle = context.strokeStyle = `rgb(${colour})`;
      context.beginPath();
      for (const [x, y, z] of points)
        context.lineTo((width / 2) * (1 + (across * x) / (DISTANCE - z)), (height / 2) * (1 - (up * y) / (DISTANCE - z)));
      context.closePath();
      context.fill();
      context.stroke(); // no gaps between neighbours
    }
  }

  // -- one mesh of the page ----------------------------------------------------------------------------------------------
  let webgl; // shared, opened at the first mesh; null where there is none

  function start(box) {
    const mesh = { soup: smooth(decode(box)) };
    const view = { ...HOME };
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute(
      "aria-label",
      `3D model ${box.dataset.name}. Drag or press arrow keys to turn it, scroll or press + and - to zoom, double click or press Home to reset.`
    );
    if (webgl === undefined) webgl = openWebGL();

    function draw() {
      const ratio = Math.min(2, window.devicePixelRatio || 1);
      const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((one) => Math.max(1, Math.round(one * ratio)));
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      if (webgl && !webgl(mesh, context, view)) webgl = null;
      if (!webgl) paint(mesh, context, view);
    }
    let asked = 0;
    const redraw = () => {
      if (!asked) asked = requestAnimationFrame(() => ((asked = 0), draw()));
    };
    function change(turn, tilt, zoom) {
      box.classList.add("touched");
      view.turn += turn;
      view.tilt = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, view.tilt + tilt));
      view.zoom = Math.min(8, Math.max(0.5, view.zoom * zoom));
      redraw();
    }
    const reset = () => (Object.assign(view, HOME), redraw());

    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const step = Math.PI / canvas.clientHeight;
      change(event.movementX * step, event.movementY * step, 1);
    });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls until the model was clicked
      event.preventDefault();
      change(0, 0, Math.exp(-0.002 * event.deltaY * (event.deltaMode ? 16 : 1)));
    }, { passive: false });
    canvas.addEventListener("dblclick", reset);
    const keys = {
      ArrowLeft: [-0.15, 0, 1], ArrowRight: [0.15, 0, 1], ArrowUp: [0, -0.15, 1], ArrowDown: [0, 0.15, 1],
      "+": [0, 0, 1.15], "=": [0, 0, 1.15], "-": [0, 0, 1 / 1.15],
    };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Home") reset();
      else if (keys[event.key]) change(...keys[event.key]);
      else return;
      event.preventDefault();
    });

    box.append(canvas);
    box.classList.add("live");
    try {
      draw();
      new ResizeObserver(redraw).observe(canvas);
    } catch (error) {
      box.classList.remove("live");
      canvas.remove();
      throw error;
    }
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      start(entry.target);
    }
  }, { rootMargin: "300px" });
  for (const box of document.querySelectorAll("[data-mesh]")) seen.observe(box);
})();
