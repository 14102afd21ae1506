"""Colours and the style sheet of the page.

The colours of the bins come from the palette of Okabe and Ito ("Color Universal Design", 2008), which people with any
kind of colour vision can tell apart; each also has its word beside it, and states have a shape of their own. A pair
is (on light, on dark).
"""

from __future__ import annotations

from typing import Final

BINS: Final = {
    "productive": ("#0072b2", "#4aa3dc"),
    "checkpoint": ("#7fb8de", "#2f6f9c"),
    "start": ("#8a8f98", "#7c828c"),
    "detection": ("#e0a100", "#f0b93a"),
    "diagnosis": ("#cc79a7", "#d98fb9"),
    "restart": ("#d55e00", "#e8792b"),
    "redo": ("#009e73", "#2bb894"),
    "planned": ("#6b7280", "#9aa2ae"),
    "held": ("#7b2d8b", "#b57ac4"),
    "idle": ("#c3c8cf", "#4b5260"),
}
# One colour for both: bands lie half transparent under the curves.
BANDS: Final = {name: pair[0] for name, pair in BINS.items()} | {"held": "#9a5fb0", "idle": "#9aa0a8"}
CURVE: Final = "#2f8fd0"
CURVE_OTHER: Final = "#3a9d7c"
CURVE_THIRD: Final = "#c07a1e"
FAINT: Final = "rgba(128,134,145,0.28)"
INK: Final = "#858b96"  # words in a chart, on light and on dark

# Given as a drawing: Streamlit would fetch an icon by name from the internet.
ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0072b2"/>'
    '<path d="M5 19h6l4-10 4 15 3-8h5" fill="none" stroke="#fff" stroke-width="2.6" stroke-linejoin="round"/></svg>'
)

# Word and shape of each state the page can be in; "calm" ones need nobody.
STATES: Final = {
    "empty": ("No job yet", "○", "calm"),
    "starting": ("Starting", "◔", "calm"),
    "training": ("Training", "●", "good"),
    "regaining": ("Training again", "◕", "good"),
    "suspected": ("Suspected stall", "◆", "warn"),
    "interrupted": ("Interrupted", "▲", "warn"),
    "held": ("Held for a person", "■", "bad"),
    "completed": ("Completed", "✓", "good"),
    "failed": ("Failed", "✕", "bad"),
    "stopped": ("Stopped by a person", "◼", "calm"),
    "away": ("Could not look", "?", "bad"),
    "refused": ("Not let in", "?", "bad"),
}


FADED: Final = "<style>.st-key-body{opacity:.62;filter:saturate(.55)}</style>"


def style_sheet() -> str:
    """The page's style element."""
    colours = "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in BINS.items())
    return f"<style>:root{{{_VARIABLES}{colours}}}{_RULES}{_RECORDS}</style>"


_VARIABLES: Final = (
    "--ink:light-dark(#1a1d23,#e8eaee);--soft:light-dark(#565d69,#a4abb8);--line:light-dark(#dfe3e8,#2e343f);"
    "--card:light-dark(#ffffff,#181c24);--sunk:light-dark(#f3f5f8,#10141b);--good:light-dark(#00694c,#4cc9a4);"
    "--warn:light-dark(#9a4a00,#f0a45a);--bad:light-dark(#a8123a,#ff8095);--calm:light-dark(#46505e,#aeb6c2);"
    "--good-b:light-dark(#e3f4ee,#10261f);--warn-b:light-dark(#fdf0e0,#2b1d0e);--bad-b:light-dark(#fde8ec,#2d121a);"
    "--calm-b:light-dark(#eef1f4,#1b2029);"
)

_RULES: Final = """
header[data-testid="stHeader"],[data-testid="stStatusWidget"]{display:none}
[data-stale="true"],.stale-element{opacity:1!important;transition:none!important}
[data-testid="stMainBlockContainer"]{max-width:1900px;padding:1.1rem clamp(.75rem,2.5vw,2.5rem) 2.5rem}
[data-testid="stVerticalBlock"]{gap:.9rem}
[data-testid="stHorizontalBlock"]{flex-wrap:wrap;gap:1.4rem}
@media(max-width:1150px){[data-testid="stHorizontalBlock"]>[data-testid="stColumn"]{min-width:100%;flex:1 1 100%}}
@media(min-width:1800px){html{font-size:18.5px!important}}
@media(min-width:2500px){html{font-size:24px!important}[data-testid="stMainBlockContainer"]{max-width:none}}
.o{color:var(--ink);font-size:.94rem;line-height:1.45;overflow-wrap:anywhere}
.o *{box-sizing:border-box}.o p{margin:.2rem 0}.o a{color:inherit}
.o h2{font-size:1.02rem;font-weight:650;margin:0 0 .55rem;padding:0;letter-spacing:0;color:var(--ink)}
.o .soft,.o.soft{color:var(--soft);font-size:.84rem}.o .num{font-variant-numeric:tabular-nums}
.o .card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.85rem 1rem}
.o .top{display:flex;justify-content:space-between;align-items:baseline;gap:.3rem 1rem;flex-wrap:wrap}
.o .mark{font-weight:700;letter-spacing:.01em}
.o .state{border-left:6px solid var(--tone);background:var(--tone-b);border-radius:10px;padding:.95rem 1.15rem 1rem}
.o .good{--tone:var(--good);--tone-b:var(--good-b)}.o .warn{--tone:var(--warn);--tone-b:var(--warn-b)}
.o .bad{--tone:var(--bad);--tone-b:var(--bad-b)}.o .calm{--tone:var(--calm);--tone-b:var(--calm-b)}
.o .pill{display:inline-flex;gap:.45em;align-items:center;color:var(--tone);font-weight:700;font-size:1rem}
.o .say{font-size:clamp(1.2rem,2.1vw,1.72rem);line-height:1.28;font-weight:600;margin:.2rem 0 .35rem;
 text-wrap:pretty}
.o .tag{display:inline-block;border:1px solid var(--line);background:var(--sunk);color:var(--soft);border-radius:99px;
 padding:.02rem .55rem;font-size:.76rem;white-space:nowrap;vertical-align:.08em}
.o .tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(9.6rem,44%),1fr));gap:.7rem}
.o .tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.6rem .85rem .65rem;min-width:0}
.o .tile b{display:block;font-size:clamp(1.25rem,1.9vw,1.75rem);font-weight:650;line-height:1.2;
 font-variant-numeric:tabular-nums;white-space:nowrap}
.o .tile span.soft{display:block;line-height:1.35}
.o .tile b small{font-size:.8rem;font-weight:500;color:var(--soft);margin-left:.25em}
.o .legend{display:flex;flex-wrap:wrap;gap:.15rem .95rem;font-size:.82rem;color:var(--soft)}
.o .legend span{white-space:nowrap}
.o .key{display:inline-block;width:.72em;height:.72em;border-radius:2px;margin-right:.4em;vertical-align:-.02em}
.o .bar{display:flex;height:1.5rem;border-radius:5px;overflow:hidden;background:var(--sunk);
 border:1px solid var(--line)}
.o .bar i{display:block;min-width:2px;height:100%}.o .bar.thin{height:1rem}
.o .held-h{background-image:repeating-linear-gradient(45deg,transparent 0 4px,rgba(255,255,255,.35) 4px 7px)}
.o table{border-collapse:collapse;width:100%;font-size:.87rem;margin:.5rem 0 0}
.o th{font-weight:600;color:var(--soft);text-align:left;font-size:.8rem;white-space:nowrap}
.o th,.o td{padding:.24rem .6rem .24rem 0;border:0;border-bottom:1px solid var(--line);vertical-align:top}
.o th:last-child,.o td:last-child{padding-right:0}.o td.name,.o td.num{white-space:nowrap}
.o tr.sum td{font-weight:650;border-bottom:0}
.o td.r,.o th.r{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.o .strip{position:fixed;top:0;left:0;right:0;z-index:999;background:var(--bad);color:var(--bad-b);font-weight:650;
 text-align:center;padding:.15rem .6rem;font-size:.86rem}
.o .cmds{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(21rem,100%),1fr));gap:.1rem 1rem}
.o .wide{overflow-x:auto;max-width:100%}
.o dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.2rem .9rem;margin:.6rem 0;padding:0;
 font-size:.9rem}.o dt,.o dd{margin:0;padding:0}.o dt{color:var(--soft)}
@media(max-width:520px){.o dl{grid-template-columns:1fr;gap:0}.o dd{margin-bottom:.4rem}
 .o .state{padding:.8rem .85rem}.o td.hide,.o th.hide{display:none}}
.o .mesh{border-collapse:separate;border-spacing:3px;width:auto;margin:0;table-layout:auto}
.o .mesh th{padding:.1rem .4rem .1rem 0;border:0;font-size:.76rem;vertical-align:middle}
.o .mesh td{padding:0;border:0}
.o .rank{border:1px solid var(--line);background:var(--sunk);border-radius:6px;padding:.2rem .45rem;min-width:4.6rem;
 font-size:.78rem;line-height:1.3;border-top:3px solid var(--edge,var(--line))}
.o .rank b{font-weight:650}.o .rank em{font-style:normal;color:var(--soft)}
.o .rank.culprit{outline:2px solid var(--bad);background:var(--bad-b)}
.o .who{display:grid;grid-template-columns:minmax(0,auto) minmax(min(15rem,100%),1fr);gap:.6rem 1.6rem}
@media(max-width:760px){.o .who{grid-template-columns:minmax(0,1fr)}}
.o .nodes{align-content:start;display:grid;grid-template-columns:repeat(auto-fill,minmax(min(15rem,100%),1fr));
 gap:.55rem}
.o .node{border:1px solid var(--line);border-left:4px solid var(--tone);border-radius:8px;padding:.4rem .7rem;
 background:var(--card);font-size:.87rem}
.o code,.o pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.84rem;background:var(--sunk);
 color:var(--ink);border-radius:5px;padding:.08rem .3rem}
.o pre{padding:.55rem .75rem;white-space:pre-wrap;margin:.4rem 0;border:1px solid var(--line)}
[data-testid="stLayoutWrapper"]:has(>[data-testid="stVerticalBlock"]:empty){display:none}
.st-key-charts{display:grid!important;grid-template-columns:minmax(0,1fr);justify-items:stretch;width:100%}
.st-key-charts>*{grid-area:1/1;min-width:0;width:100%}
.st-key-curves{background:var(--card);border-color:var(--line)!important;border-radius:10px!important}
@media(min-width:1800px){.js-plotly-plot text{font-size:15px!important}}
@media(min-width:2500px){.js-plotly-plot text{font-size:19px!important}}
[data-testid="stExpander"],[data-testid="stExpander"] details,[data-testid="stExpander"] summary,
[data-testid="stExpander"] summary *{opacity:1!important}
[data-testid="stExpander"] h4{font-size:1rem;padding:.5rem 0 .15rem}
[data-testid="stExpander"] summary p{overflow-wrap:anywhere}
[data-testid="stExpander"] summary{padding:.5rem .75rem}
:focus-visible{outline:3px solid light-dark(#0a58ca,#8ab8ff)!important;outline-offset:2px}
@media(prefers-reduced-motion:reduce){*{transition:none!important;animation:none!important}}
"""

# The flight recorder's view. Roles differ by line and shape as well as by colour.
_RECORDS: Final = """
.o .roots,.o.roots{display:grid;gap:.9rem}
.o .named{border:1px solid var(--line);border-left:5px solid var(--bad);background:var(--bad-b);border-radius:8px;
 padding:.45rem .75rem;margin:.35rem 0}.o .named b{color:var(--bad);margin-right:.5em}
.o .named.candidate{border-left:5px dashed var(--warn);background:var(--warn-b)}.o .named.candidate b{color:var(--warn)}
.o ol.stack{list-style:none;margin:.3rem 0;padding:.45rem .7rem;max-height:17rem;overflow:auto;background:var(--sunk);
 border:1px solid var(--line);border-radius:6px;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
 font-size:.8rem}.o ol.stack b{font-weight:650}
.o ul{margin:.2rem 0 .4rem;padding-left:1.2rem}.o li{margin:.1rem 0}
.o .limits h2:not(:first-child),.o h2.next{margin-top:.8rem}
.o .root{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:.6rem 2rem}
@media(max-width:900px){.o .root{grid-template-columns:minmax(0,1fr)}}
.o table.members td.name{color:var(--ink)}.o table.members b{font-weight:500}
.o table.members tr.culprit b{font-weight:650;color:var(--bad)}
.o .role{display:inline-block;font-style:normal;margin-right:.4em;color:var(--ink)}
.o .role.culprit{color:var(--bad)}.o .role.candidate{color:var(--warn)}
.o .net-room{margin-top:.5rem;max-height:86vh;overflow:auto}
.o .net{position:relative;max-width:none;font-size:.8rem;line-height:1.3}
.o .net .box{position:absolute;border:1px solid var(--line);border-radius:7px;background:var(--sunk);overflow:hidden;
 padding:.3rem .6rem}
.o .net .box span{display:block;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;color:var(--soft);
 font-size:.76rem}.o .net .box span:first-child{color:var(--ink);font-weight:650;font-size:.84rem}
.o .net .culprit{border:3px solid var(--bad);background:var(--bad-b);padding:.2rem .5rem}
.o .net .culprit span:first-child{color:var(--bad)}
.o .net .candidate{border:2px dashed var(--warn);background:var(--warn-b)}
.o .net .candidate span:first-child{color:var(--warn)}
.o .net .absent{border:2px dotted var(--soft);background:var(--card)}
.o .net i{position:absolute}.o .net .line{border-top:1.5px solid var(--edge)}
.o .net .up{border-top:0;border-left:1.5px solid var(--edge)}.o .net{--edge:light-dark(#7a828e,#8b93a1)}
.o .net .back{border-top-style:dashed}.o .net .back.up{border-top:0;border-left-style:dashed}
.o .net .tip{border:.3rem solid transparent;border-right:.55rem solid var(--edge);border-left:0;
 transform:translateY(calc(-50% + .75px))}
.o .net .tip.right{border-right:0;border-left:.55rem solid var(--edge)}
.o .net-list{list-style:none;padding:0;margin:.6rem 0 0;display:none}
.o .net-list .box{border-left:4px solid var(--line);padding:.15rem 0 .15rem .6rem;margin:.3rem 0;font-size:.86rem}
.o .net-list .culprit{border-left:5px solid var(--bad)}.o .net-list .culprit b{color:var(--bad)}
.o .net-list .candidate{border-left:5px dashed var(--warn)}.o .net-list .absent{border-left:4px dotted var(--soft)}
@media(max-width:760px){.o .net-room,.o .legend .dashed{display:none}.o .net-list{display:block}}
"""
