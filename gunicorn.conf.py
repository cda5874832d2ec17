"""How gunicorn serves the application in production: `gunicorn` alone, in this folder."""

from app.config import from_environment
from app.serving import options

wsgi_app = "app.serving:production()"
globals().update(options(from_environment()))
