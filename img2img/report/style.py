"""The style of the report of a run."""

STYLE = """
body { max-width: 62rem; padding: 0 1.1rem 3rem }
h1 { font-size: 1.75rem; margin: 0 0 .4rem } .above { color: #595959; margin: 0; font-size: .95rem }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .8rem; padding-top: .8rem; border-top: 1px solid #d9d9d9 }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem }
p, ul, dl { margin: .6rem 0; max-width: 46rem } .state { font-size: 1.05rem }
nav { margin: 1rem 0; font-size: .95rem } nav a { margin-right: 1rem; white-space: nowrap } a { color: #0b57a4 }
.remark { border-left: 4px solid; padding: .55rem .9rem; margin: .7rem 0; max-width: 46rem; break-inside: avoid }
.remark p { margin: .15rem 0 } .remark p::first-letter { text-transform: uppercase }
.remark .when { color: #595959; font-size: .9rem }
.wide { background: linear-gradient(90deg, #fff 30%, #fff0) 0 0 / 2rem 100%,
  linear-gradient(270deg, #fff 30%, #fff0) 100% 0 / 2rem 100%,
  linear-gradient(90deg, #0003, #0000) 0 0 / .6rem 100%, linear-gradient(270deg, #0003, #0000) 100% 0 / .6rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll }
.wrong { border-color: #b3261e; background: #fdf1f0 } .note { border-color: #b26a00; background: #fdf6ea }
.over { border-color: #8a8a8a; background: #f5f5f5 } .fine { border-color: #2a7a3b; background: #f0f7f1 }
table { font-size: .95rem; font-variant-numeric: tabular-nums }
td, th { padding: .4rem .9rem .4rem 0; border-bottom: 1px solid #e3e3e3 } th { font-weight: 600 }
thead th { border-bottom: 2px solid #8a8a8a; vertical-align: bottom }
.numbers tbody td, .numbers thead th + th { text-align: right; white-space: nowrap } .numbers th { white-space: nowrap }
tbody th { font-weight: 400 } td strong { font-weight: 700 } small { color: #595959; font-size: .85em }
.faint { color: #595959; font-size: .9rem }
code { white-space: nowrap; font-size: .92em } pre code { white-space: inherit }
dt { font-weight: 600 } dd { margin: 0 0 .5rem; color: #444 }
@media (min-width: 40rem) {
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem } dd { margin: 0 }
}
.files tbody td:last-child, .files thead th:last-child { text-align: left }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem 1.6rem }
.panels figure { margin: 0 } .earlier { align-items: start }
figcaption { font-size: .9rem; margin-top: .3rem; max-width: 46rem }
.panels:not(.earlier) img { width: 100% } figure img { display: block }
pre { white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; margin: .3rem 0 1rem; border-radius: 4px;
  font: .9rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
summary { cursor: pointer; padding: .3rem 0 } details td { overflow-wrap: anywhere; min-width: 9rem }
@media (max-width: 30rem) { body { margin-top: 1.2rem } h1 { font-size: 1.45rem } }
p:has(+ pre), p:has(+ figure), p:has(+ .panels) { break-after: avoid }
@media print { h2 { margin-top: 1.4rem } .panels { grid-template-columns: 1fr 1fr } nav { display: none }
  .wide { background: none } }
"""
