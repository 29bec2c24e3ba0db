"""The administration pages in a real browser: headless Chromium, driven from outside."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

from service.operations import configuration, jobs
from service.operations.enrolment.table import DECLARED
from service.operations.job_runs import Job
from tests.support.admin_site import PASSWORD, AdminSite, admin_site, scheduling
from tests.support.commands import Clock
from tests.support.storage import new_database

PATIENCE_S = 60


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server"):
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class Person:
    """What somebody does at the browser. Blocks."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser, self.url = browser, url

    def at(self, selector: str):
        wait = WebDriverWait(self.browser, PATIENCE_S)
        return wait.until(lambda browser: browser.find_element(By.CSS_SELECTOR, selector))

    def sees(self, text: str) -> None:
        wait = WebDriverWait(self.browser, PATIENCE_S, ignored_exceptions=[Exception])
        wait.until(lambda browser: text in browser.find_element(By.TAG_NAME, "body").text, f"no {text!r}")

    def presses(self, selector: str) -> None:
        """Each press here leads to another page, or to the same anew: what follows is not done on the old one."""
        wait = WebDriverWait(self.browser, PATIENCE_S, ignored_exceptions=[StaleElementReferenceException])
        pressed = wait.until(partial(self._pressed, selector))
        wait.until(staleness_of(pressed), f"{selector} leads nowhere")

    @staticmethod
    def _pressed(selector: str, browser: Chrome) -> WebElement:
        found = browser.find_element(By.CSS_SELECTOR, selector)
        found.click()
        return found

    def writes(self, selector: str, text: str) -> None:
        field = self.at(selector)
        field.clear()
        field.send_keys(text)

    def signs_in(self, name: str, password: str) -> None:
        self.browser.get(f"{self.url}/admin")
        self.writes("input[name=name]", name)
        self.writes("input[name=password]", password)
        self.presses("form.card button")

    def runs_a_daemon(self) -> None:
        self.signs_in("admin", "not the password")
        self.sees("wrong name or password")
        self.signs_in("admin", PASSWORD)
        self.sees("Daily Operations › Daemons")
        self.presses("a[href='/admin/daemons/load']")
        self.sees("It has never run.")
        self.presses("#run")
        self.sees("files 3")  # the page looks again by itself until the run is over
        self.writes("input[name=cron]", "never")
        self.presses("#schedule")
        self.sees("five fields")
        self.writes("input[name=cron]", "15 4 * * *")
        self.presses("#schedule")
        self.presses("#enable")
        self.sees("04:15:00 UTC")

    def configures_and_leaves(self) -> None:
        self.presses("a[href='/admin/configuration']")
        self.sees("System › Configuration")
        self.writes("form[action='/admin/configuration/enrolment.settle_s'] input[name=value]", "42")
        self.presses("form[action='/admin/configuration/enrolment.settle_s'] button")
        self.sees("by admin")
        self.presses("form.who button")
        self.at("input[name=password]")
        self.browser.get(f"{self.url}/admin/configuration")
        self.at("input[name=password]")


@pytest.mark.chromium
async def test_somebody_signs_in_runs_and_schedules_a_daemon_configures_and_leaves(
    tmp_path: Path, browser: Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await new_database(tmp_path / "firstlight.db")

    async def work():
        return {"files": 3}

    table = {name: Job(declared, work) for name, declared in DECLARED.items()}
    clock = Clock()
    async with admin_site(database, clock, tmp_path, monkeypatch) as site, scheduling(database, table, clock):
        person = Person(browser, site.url)
        await asyncio.to_thread(person.runs_a_daemon)
        await asyncio.to_thread(person.configures_and_leaves)
        await _check(site)
    # Nothing was refused by the content policy: the style is there and no script is.
    assert [one["message"] for one in browser.get_log("browser") if "Content Security Policy" in one["message"]] == []
    await database.close()


async def _check(site: AdminSite) -> None:
    view = await jobs.show(site.database, "load")
    assert (view.enabled, view.cron) == (True, "15 4 * * *")
    (run,) = await jobs.runs(site.database, "load")
    assert (run.state, run.account) == (jobs.RunState.DONE, "admin")
    assert (await configuration.values(site.database))["enrolment.settle_s"] == 42
