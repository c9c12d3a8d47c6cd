"""The last strategy: text in code. It takes no memory that is worth counting, and can't fail."""

from examples.generation.design import Design

_FASTAPI = """\
from fastapi import FastAPI

app = FastAPI(title={title})


@app.get("/health")
def health():
    return {{"title": {title}}}
"""
_FLASK = """\
from flask import Flask

app = Flask(__name__)


@app.get("/health")
def health():
    return {{"title": {title}}}
"""
_SETTINGS = """\
import os
import secrets

SECRET_KEY = os.environ.get("SECRET_KEY") or secrets.token_hex(32)
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1").split(",")
ROOT_URLCONF = "app.urls"
"""
_URLS = """\
from django.http import JsonResponse
from django.urls import path


def health(_request):
    return JsonResponse({{"title": {title}}})


urlpatterns = [path("health", health)]
"""
_FILES = {
    "fastapi": {"app/main.py": _FASTAPI, "requirements.txt": "fastapi\nuvicorn\n"},
    "flask": {"app/main.py": _FLASK, "requirements.txt": "flask\n"},
    "django": {"app/settings.py": _SETTINGS, "app/urls.py": _URLS, "requirements.txt": "django\n"},
}


def minimal(design: Design) -> dict[str, str]:
    """Return the text of each file by its path."""
    files = {path: text.format(title=ascii(design.title)) for path, text in _FILES[design.framework].items()}
    return {"app/__init__.py": "", **files}
