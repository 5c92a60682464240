"""URL table."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from . import health, pages, summaries
from .api.api import api

urlpatterns: list[URLPattern | URLResolver] = [
    path("", pages.page),
    path("chat/<path:name>", pages.file),
    path("sw.js", pages.worker),
    path("favicon.ico", pages.icon),
    path("static/<path:name>", pages.admin_file),
    path("unsubscribe/<str:signed>", summaries.unsubscribe),
    path("health/live", health.live),
    path("health/ready", health.ready),
    path("v1/", api.urls),
    path("_allauth/", include("allauth.headless.urls")),
    path("admin/", admin.site.urls),
]
