"""The style of every page: of runs, of runs compared, of equalized batches; light, dark, on a phone and on paper."""

from img2img.runtime.markup import TABLES

STYLE = (
    TABLES
    + """
:root { color-scheme: light dark; -webkit-text-size-adjust: 100%; --ink: #222; --paper: #fff; --clear: #fff0;
  --faint: #595959; --line: #d9d9d9; --soft: #f4f4f4; --link: #0b57a4; --shade: #0003; --strong: #8a8a8a;
  --bad: #b3261e; --on-bad: #fdf1f0; --warn: #b26a00; --on-warn: #fdf6ea; --good: #2a7a3b; --on-good: #f0f7f1 }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #16181b; --clear: #16181b00; --faint: #a3a7ad; --line: #3a3f45; --soft: #22262b;
    --link: #8ab8f0; --shade: #fff3; --strong: #7d838b; --bad: #f28b82; --on-bad: #35201f; --warn: #f0b25c;
    --on-warn: #33291a; --good: #81c995; --on-good: #1d2c22 }
  img { background: #fff } .charts img { filter: invert(.92) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1.1rem 3rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere }
h1, h2, h3 { line-height: 1.25 }
img { max-width: 100%; height: auto } .pixels { image-rendering: pixelated }
figure { margin: 1rem 0 } figcaption { color: var(--faint) }
pre { background: var(--soft); padding: .8rem; overflow-x: auto }
h1 { font-size: 1.75rem; margin: 0 0 .4rem } .above { color: var(--faint); margin: 0; font-size: .95rem }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem }
p, ul, dl { margin: .6rem 0; max-width: 46rem } .state { font-size: 1.05rem }
nav { margin: 1rem 0; font-size: .95rem } nav a { margin-right: 1rem; white-space: nowrap } a { color: var(--link) }
.remark { border-left: 4px solid; padding: .55rem .9rem; margin: .7rem 0; max-width: 46rem; break-inside: avoid }
.remark p { margin: .15rem 0 } .remark p::first-letter { text-transform: uppercase }
.remark .when { color: var(--faint); font-size: .9rem }
.wide { background: linear-gradient(90deg, var(--paper) 30%, var(--clear)) 0 0 / 2rem 100%,
  linear-gradient(270deg, var(--paper) 30%, var(--clear)) 100% 0 / 2rem 100%,
  linear-gradient(90deg, var(--shade), transparent) 0 0 / .6rem 100%,
  linear-gradient(270deg, var(--shade), transparent) 100% 0 / .6rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll }
.wrong { border-color: var(--bad); background: var(--on-bad) }
.note { border-color: var(--warn); background: var(--on-warn) }
.over { border-color: var(--strong); background: var(--soft) }
.fine { border-color: var(--good); background: var(--on-good) }
code { white-space: nowrap; font-size: .92em } pre code { white-space: inherit }
dt { font-weight: 600 } dd { margin: 0 0 .5rem; color: var(--faint) }
@media (min-width: 40rem) {
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem } dd { margin: 0 }
}
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem 1.6rem }
.panels figure { margin: 0 } .earlier { align-items: start }
figcaption { font-size: .9rem; margin-top: .3rem; max-width: 46rem }
.panels:not(.earlier) img { width: 100% } figure img { display: block }
pre { white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; margin: .3rem 0 1rem; border-radius: 4px;
  font: .9rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
summary { cursor: pointer; padding: .3rem 0 } details td { overflow-wrap: anywhere; min-width: 9rem }
@media (max-width: 30rem) { body { margin-top: 1.2rem } h1 { font-size: 1.45rem } }
p:has(+ pre), p:has(+ figure), p:has(+ .panels) { break-after: avoid }
@media print {
  body { max-width: none; margin: 0; padding: 0; font-size: 10.5pt; print-color-adjust: exact;
    -webkit-print-color-adjust: exact }
  h1, h2, h3 { break-after: avoid } figure, tr, pre { break-inside: avoid } thead { display: table-header-group }
  img { max-height: 22cm; object-fit: contain; object-position: left top } pre { white-space: pre-wrap }
  .wide { overflow: visible; background: none } .screen, nav { display: none }
  details::details-content { content-visibility: visible; block-size: auto }
  h2 { margin-top: 1.4rem } .panels { grid-template-columns: 1fr 1fr }
}
"""
)
