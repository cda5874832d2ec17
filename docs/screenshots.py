"""The pictures in the README: `make screenshots`.

A service and the sandbox are started, edits are submitted and delivered, and a browser looks at them.
Only the tallies of the hours before are made up: nobody waits a day for a picture.
"""

import random
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

from PIL import Image

from app import db
from app.counts import hour_of
from app.models import Tally
from tests.acceptance.waiting import until
from tests.browser.houses import House, house
from tests.browser.visitors import Visitors, started_browser
from tests.servers.service import Sandbox, running

FOLDER = Path(__file__).parent
PALETTE = 255
EDITS = (
    ("A sepia print of the cat, as if it were 1920", "chelsea", "gpt-image-2", 1),
    ("Posterize the coffee for the café's menu [duplicate 4]", "coffee", "gpt-image-1.5", 1),
    ("Blur everything but the eyes", "chelsea", "nano-banana-pro", 2),
    ("Moderation will not like this one [forbidden]", "coffee", "gpt-image-2", 1),
    ("Grayscale, high contrast, for the newspaper", "coffee", "gpt-image-2", 1),
    ("Mirror it, and make it a little brighter", "chelsea", "gpt-image-1.5", 3),
    ("Edges only, as a colouring page for children", "chelsea", "gpt-image-2", 1),
    ("Green light from the left [not an image]", "coffee", "nano-banana-pro", 1),
    ("Pixelate the cup, keep the table", "coffee", "gpt-image-2", 1),
    ("Blue hour, long shadows", "chelsea", "gpt-image-1.5", 1),
    ("A forged callback comes first [forged]", "coffee", "gpt-image-2", 1),
    ("Invert the colours for the night poster", "chelsea", "gpt-image-2", 1),
    ("Sharpen the whiskers", "chelsea", "nano-banana-pro", 1),
    ("Warm evening light and film grain [late 60]", "coffee", "gpt-image-2", 2),
)


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        migrated = folder / "migrated.db"
        db.migrate(f"sqlite:///{migrated}")
        with (
            running(Sandbox([], folder / "sandbox")) as sandbox,
            house(sandbox, migrated, folder, LEASE_SECONDS="30") as lively,
            started_browser() as browser,
            Visitors(browser, lively).watching() as visitors,
        ):
            first = _liven(lively)
            page = visitors.visit("/", size="desktop")
            page.set_viewport_size({"width": 1280, "height": 800})
            page.wait_for_load_state("networkidle")
            _keep(page.screenshot(), "desktop.png")
            page = visitors.visit(f"/tasks/{first}", size="phone", scheme="dark")
            page.wait_for_selector("img[alt^=After]")
            for image in page.locator(".compare img").all():
                image.evaluate("image => image.decode()")
            _keep(page.screenshot(), "phone.png")


def _liven(house: House) -> str:
    """Let things happen; the id of a task that is worth a picture."""
    _make_up_tallies(house)
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_port}/webhooks"
    house.call("POST", "/v1/endpoints", {"url": url, "description": "Shop"})
    ids = []
    for prompt, photo, model, n in EDITS:
        image = f"{house.sandbox.url}/photos/{photo}.png"
        ids.append(house.submit(prompt, image=image, model=model, n=n, metadata={"order": "4711"}))
    ended = [id_ for id_, edit in zip(ids, EDITS, strict=True) if "[forged]" not in edit[0]][:-1]
    until(lambda: all(house.task(id_)["finished_at"] for id_ in ended), ended)
    return ids[0]


def _make_up_tallies(house: House) -> None:
    now = hour_of(datetime.now(UTC))
    with house.parts.db.transaction() as session:
        for hours in range(1, 24):
            at = now - timedelta(hours=hours)
            made = random.Random(hours).randint(20, 90) if 6 <= at.hour <= 22 else 4
            failed = made // 19
            counts = {
                "created": made,
                "succeeded": made - failed,
                "failed": failed,
                "accepted": made,
            }
            session.add_all(
                Tally(hour=at, provider="acedata", model="gpt-image-2", event=event, count=count)
                for event, count in counts.items()
            )


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _keep(png: bytes, name: str) -> None:
    """With few colours, which is small and hardly to be seen."""
    picture = Image.open(BytesIO(png)).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    picture.save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    main()
