"""How gunicorn serves the application in production: `gunicorn` alone, in this folder."""

import sys

from app.config import from_environment
from app.errors import ConfigError
from app.serving import options

wsgi_app = "app.serving:production()"
try:
    globals().update(options(from_environment()))
except ConfigError as error:
    sys.exit(error.report)
