"""A real browser for tests, and `ais console` as a user starts it."""

from benchmarks.console.browser import Browser as Browser
from benchmarks.console.browser import Page as Page
from benchmarks.console.browser import browser as browser
from benchmarks.console.browser import chromium as chromium
