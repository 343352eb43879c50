// What the server is asked. Every error is an Error with what the server says of it.

async function told(response) {
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message || message;
  } catch {
    /* it said nothing that is JSON */
  }
  throw new Error(message);
}

async function reached(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server can't be reached. Is it still running?");
  }
}

const post = (address, asked, signal) =>
  reached(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked), signal });

export const getJSON = async (address) => (await told(await reached(address))).json();

export const search = async (asked, signal) => (await told(await post("/api/search", asked, signal))).json();

export async function upload(file) {
  const address = "/api/uploads?" + new URLSearchParams({ name: file.name || "pasted.png" });
  return (await told(await reached(address, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file }))).json();
}

export const forget = (id) => reached(`/api/uploads/${encodeURIComponent(id)}`, { method: "DELETE" }).catch(() => {});

// The events of an answer, one JSON object a line.
export async function* answer(asked, signal) {
  const response = await told(await post("/api/ask", asked, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    held += value || "";
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
    if (done) return;
  }
}
