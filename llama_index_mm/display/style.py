"""How the page looks."""

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f5f5f2; --card: #ffffff; --line: #dddcd6; --ink: #1d1e20; --soft: #5a5d62; --link: #17539c; --wash: #eef3fa;
  --warn: #7a4a00; --warn-wash: #fdf3de; --bar: #3b77bd; --rail: #e6e6e1;
  --text: #44474c; --image: #1d6b3f; --audio: #8a3a78; --mesh: #8a4b14;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #141517; --card: #1d1f22; --line: #34373b; --ink: #e9e9e6; --soft: #a6a9ae; --link: #8fbdf5; --wash: #1b2634;
    --warn: #f0c674; --warn-wash: #33291a; --bar: #6ea5e6; --rail: #34373b;
    --text: #c3c6cb; --image: #85d3a4; --audio: #e3a3d4; --mesh: #e8b482;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 76rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  overflow-wrap: anywhere;
}
body.framed { padding: 1rem; }
h1, h2, h3, p, figure, ol, blockquote { margin: 0; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -0.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; }
h3 { font-size: 1rem; line-height: 1.35; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
nav ol { padding: 0.5rem 0 0 1.4rem; color: var(--soft); }
section { margin-top: 2.25rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
header.unseen + main > section:first-child { margin-top: 0; padding-top: 0; border-top: 0; }
section > header { display: flex; flex-wrap: wrap; gap: 1rem 1.25rem; align-items: center; margin-bottom: 1rem; }
section > header > div { flex: 1 1 16rem; }
.asked { flex: 0 1 auto; max-width: 20rem; }
.asked img {
  display: block; max-width: 100%; max-height: 8rem; border: 1px solid var(--line); border-radius: 6px; background: #fff;
}
.asked audio { width: 18rem; }
.asked figcaption, .note, .count, .facts { color: var(--soft); font-size: 0.875rem; }
.answer {
  margin-bottom: 1.25rem; padding: 1rem 1.25rem; max-width: 48rem; background: var(--wash); border-radius: 10px;
  white-space: pre-line;
}
.answer h3 { color: var(--soft); font-size: 0.8125rem; font-weight: 600; }
.answer p + p { margin-top: 0.6rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
.card {
  display: flex; flex-direction: column; gap: 0.75rem; min-width: 0; padding: 1rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; scroll-margin-top: 1rem;
}
.card:target { outline: 2px solid var(--link); }
.card > header { display: grid; grid-template-columns: auto 1fr auto; gap: 0.4rem 0.6rem; align-items: baseline; }
.number { color: var(--soft); font-variant-numeric: tabular-nums; }
.badge { padding: 0 0.5rem; border: 1px solid currentColor; border-radius: 999px; font-size: 0.75rem; line-height: 1.5; }
.badge.text { color: var(--text); }
.badge.image { color: var(--image); }
.badge.audio { color: var(--audio); }
.badge.mesh { color: var(--mesh); }
.score { grid-column: 1 / -1; display: flex; align-items: center; gap: 0.6rem; color: var(--soft); font-size: 0.8125rem; }
.score, td.figure { font-variant-numeric: tabular-nums; }
.bar { flex: 1; height: 5px; border-radius: 3px; background: var(--rail); overflow: hidden; }
.bar > span { display: block; height: 100%; background: var(--bar); }
.card figure { display: flex; flex-direction: column; gap: 0.6rem; }
.card img { display: block; width: 100%; height: 15rem; object-fit: contain; border-radius: 6px; background: var(--ground); }
.card .sheet img { background: #fff; }
.turn { position: relative; }
.turn canvas { display: none; width: 100%; height: 15rem; border-radius: 6px; background: var(--ground); cursor: grab; }
.turn canvas { touch-action: pan-y pinch-zoom; }
.turn canvas:active { cursor: grabbing; }
.turn canvas:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.turn.live > * { display: none; }
.turn.live > canvas { display: block; }
.turn.live::after {
  content: "Drag to turn"; position: absolute; right: 0.6rem; bottom: 0.4rem; color: var(--soft); font-size: 0.75rem;
  pointer-events: none; transition: opacity 0.3s;
}
.turn.touched::after { opacity: 0; }
audio { display: block; width: 100%; height: 2.75rem; }
.words { font-size: 0.9375rem; }
.words p { white-space: pre-line; }
.words p + p { margin-top: 0.5rem; }
figcaption.words { color: var(--soft); font-size: 0.875rem; }
blockquote.words { margin-top: 0.6rem; padding-left: 0.8rem; border-left: 3px solid var(--rail); }
.words details { margin-top: 0.4rem; }
summary { color: var(--link); font-size: 0.875rem; cursor: pointer; }
.reasons { margin-top: auto; }
.wide { overflow-x: auto; }
table { width: 100%; margin-top: 0.4rem; border-collapse: collapse; font-size: 0.8125rem; }
caption { padding-bottom: 0.25rem; color: var(--soft); text-align: start; }
th, td { padding: 0.2rem 0.5rem 0.2rem 0; border-bottom: 1px solid var(--line); text-align: start; overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; }
th:nth-child(n + 3), td.figure { text-align: end; }
th:last-child, td:last-child { padding-right: 0; }
.notice { padding: 0.6rem 0.8rem; border-radius: 6px; background: var(--warn-wash); color: var(--warn); font-size: 0.875rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 30rem) { body { padding: 1.25rem 1rem 3rem; } .asked { max-width: 100%; } }
@media print { body { max-width: none; } .card { break-inside: avoid; } }
"""
