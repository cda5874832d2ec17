"""Takes what Postback pushes, and believes nothing that is not signed.

Run it with `pip install flask standardwebhooks`, then
`WEBHOOK_SECRET=whsec_... flask --app receiver run --port 5000`.
"""

import os

import click
from flask import Flask, request
from standardwebhooks import Webhook, WebhookVerificationError

app = Flask(__name__)
webhook = Webhook(os.environ["WEBHOOK_SECRET"])
# In a database, in earnest: what comes comes at least once, and in any order.
seen: set[str] = set()


@app.post("/hook")
def take() -> tuple[str, int]:
    """Verify the bytes as they came, before anything reads them."""
    try:
        event = webhook.verify(request.get_data(), dict(request.headers))
    except WebhookVerificationError as error:
        return str(error), 400
    if request.headers["webhook-id"] in seen:
        return "seen before", 200
    task = event["data"]
    click.echo(f"{event['type']} {task['task_id']} {[image['url'] for image in task['images']]}")
    # Only now: what is not remembered may come again.
    seen.add(request.headers["webhook-id"])
    return "thanks", 200
