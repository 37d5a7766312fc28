"""The page's style sheet and its one line of script, with the content security policy that allows only them.

The hashes are constants, since computing them would cost a tick an import; a test compares them.
"""

STYLE = (
    ":root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--soft:#5a636e;--line:#d8dde3;--good:#1a7f4b;"
    "--bad:#c62828;--warn:#b26a00;--unseen:#e6e9ed}"
    "@media(prefers-color-scheme:dark){:root{--back:#14171b;--text:#e4e8ec;--soft:#98a2ad;--line:#30363d;"
    "--good:#3fb97a;--bad:#ef6a6a;--warn:#e0a040;--unseen:#2a2f36}}"
    "*{box-sizing:border-box}body{margin:0 auto;padding:12px;max-width:1100px;background:var(--back);"
    "color:var(--text);font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}"
    "header{border-left:6px solid var(--good);padding-left:12px}header.fail{border-color:var(--bad)}"
    "header.warn{border-color:var(--warn)}h1{margin:0;font-size:22px}h2{font-size:16px;margin:22px 0 4px}"
    "header p,time,figcaption{color:var(--soft);font-size:13px;margin:0}"
    ".row{border-top:1px solid var(--line);padding:6px 0}.row.fail{border-left:3px solid var(--bad);padding-left:8px}"
    ".row.warn{border-left:3px solid var(--warn);padding-left:8px}span.ok{color:var(--good)}span.fail{color:var(--bad)}"
    "code{display:block;font-size:13px;color:var(--soft)}.bars{display:flex;flex-wrap:wrap;gap:10px}"
    "figure{margin:4px 0;flex:1 1 270px;min-width:0;max-width:560px}"
    "svg{display:block;width:100%;height:auto;max-height:60px}"
    ".up,.good{fill:var(--good)}.down,.bad{fill:var(--bad)}.partly{fill:var(--warn)}.unseen{fill:var(--unseen)}"
    ".aside{fill:var(--line)}.hidden{fill:transparent}.line{fill:none;stroke:var(--soft)}"
    ".dashed{stroke:var(--warn);stroke-dasharray:4 3}"
    "#old{background:#c62828;color:#fff;padding:8px;margin:0 0 10px;font-weight:bold}"
)
SCRIPT = (
    "setInterval(function f(){var b=document.body.dataset;"
    'document.getElementById("old").hidden=Date.now()/1000-b.at<b.for;return f}(),5000)'
)
STYLE_HASH = "zpeJdhL2HKS+Ch43CPl+/KSsOkPdWSZHsLRyIZxDLJg="
SCRIPT_HASH = "f0Dc7DSCYenKoQXH1yfKtz30ysmKOiLWJsfdWJcJmZY="
POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; script-src 'sha256-{SCRIPT_HASH}'; base-uri 'none'; "
    "form-action 'none'"
)
