"""The still pictures of the laboratory, for readers without scripts: run as a script to take them anew."""

import hashlib
import io
import json
import sys
from pathlib import Path

import browsing
import PIL.Image

LAB = browsing.ROOT / "book" / "_static" / "lab"
RECORD = LAB / "stills.json"
NAMES = {"small": "index-plane", "plane": "lab-plane", "line": "lab-line", "filter": "lab-filter", "train": "lab-train"}

PAGE = """<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>Laboratory</title>
<meta name="viewport" content="width=device-width"><style>
:root {{ --pst-color-surface: #f6f6f6; --pst-color-background: #fff; --pst-color-text-base: #222;
  --pst-color-text-muted: #555; --pst-color-border: #ccc; --pst-color-accent: #8045e5 }}
html[data-theme="dark"] {{ --pst-color-surface: #29313d; --pst-color-background: #121212;
  --pst-color-text-base: #ced6dd; --pst-color-text-muted: #9ca4af;
  --pst-color-border: #48566b; --pst-color-accent: #e89217 }}
body {{ background: var(--pst-color-background); color: var(--pst-color-text-base);
  font: 16px sans-serif; margin: 0 auto; max-width: 760px }}
figure {{ margin: 0 }} {style} {still}
</style><body class="bd-article"><figure class="laboratory" id="fig-{name}"><img alt=""></figure>{scripts}</html>"""

STILL = """
.lab:not(.lab-small) .lab-controls, .lab-quantities, .lab-row, .lab-said, .lab-legend, .lab-panel p { display: none }
.lab:not(.lab-small) .lab-top { grid-template-columns: 460px; justify-content: center }
"""


def digest() -> str:
    """Return a hash of all that the pictures are made of."""
    files = sorted([*LAB.glob("*.js"), *LAB.glob("*.css")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def html(figure: str, *, still: bool) -> str:
    """Return a page that holds one figure and nothing else: only its pictures, if it is for a still."""
    order = ("mathematics", "networks", "drawing", "laboratory", "curves", "training")
    scripts = "".join(f"<script>{(LAB / f'{script}.js').read_text(encoding='utf-8')}</script>" for script in order)
    style = (LAB / "lab.css").read_text(encoding="utf-8")
    return PAGE.format(name=figure, style=style, still=STILL if still else "", scripts=scripts)


def main() -> None:
    """Take all pictures, with a small palette; that of the training is taken when it is done."""
    with browsing.launched() as browser:
        for name, figure in NAMES.items():
            page = browser.new_page(viewport={"width": 760, "height": 900}, device_scale_factor=1.5)
            page.set_content(html(figure, still=True))
            page.wait_for_function("Laboratory.frames.length > 0")
            if name == "train":
                page.evaluate("Laboratory.views.train.toggle()")
                page.wait_for_function("Laboratory.views.train.finished", timeout=200_000)
                page.wait_for_timeout(500)
            shot = PIL.Image.open(io.BytesIO(page.locator(".lab").screenshot())).convert("RGB")
            shot.quantize(200, method=PIL.Image.Quantize.FASTOCTREE).save(LAB / f"{name}.png", optimize=True)
            page.close()
    RECORD.write_text(json.dumps({"digest": digest()}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
