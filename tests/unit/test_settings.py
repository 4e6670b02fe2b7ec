"""The settings of an installation, from an environment that is passed in."""

import pytest

from actors.settings import Settings, load_settings
from runtime.errors import BadRequest


def test_without_variables_all_have_their_defaults():
    assert load_settings({}) == Settings()


def test_variables_are_read_by_their_names():
    settings = load_settings(
        {
            "DATABASE_URL": "postgres://db/x",
            "JAMJET_BIND": "0.0.0.0",
            "JAMJET_PUBLIC_URL": "https://jamjet.example",
            "JAMJET_LIVE_MAX": "7",
            "JAMJET_ISOLATION": "dedicated",
            "JAMJET_PYTHON_MODULES": "steps, my_flows.* ,",
            "JAMJET_STORE_FAULTS": "42",
        }
    )
    assert settings == Settings(
        database_url="postgres://db/x",
        bind="0.0.0.0",
        public_url="https://jamjet.example",
        live_max=7,
        isolation="dedicated",
        python_modules=("steps", "my_flows.*"),
    )


@pytest.mark.parametrize(
    ("environ", "port"),
    [
        ({"PORT": "80"}, 80),
        ({"JAMJET_PORT": "81", "PORT": "80"}, 81),
        ({"JAMJET_PORT": "", "PORT": "80"}, 80),
    ],
)
def test_the_port_has_two_names_and_ours_goes_first(environ, port):
    assert load_settings(environ).port == port


def test_rust_log_sets_the_level_as_it_does_for_jamjet():
    assert load_settings({"RUST_LOG": "debug"}).log_level == "debug"


@pytest.mark.parametrize(
    ("text", "on"), [("1", True), ("TRUE", True), ("yes", True), ("on", True), ("0", False), ("no", False)]
)
def test_switches(text, on):
    assert load_settings({"JAMJET_DEV_MODE": text}).dev_mode is on


@pytest.mark.parametrize("text", ["seven", "-1", "1.5", " 7", "²", "٧", "9" * 5_000])
def test_a_number_that_is_none_is_refused_by_name(text):
    with pytest.raises(BadRequest, match=r"JAMJET_LIVE_MAX is .*: it must be a whole number"):
        load_settings({"JAMJET_LIVE_MAX": text})


def test_an_unknown_isolation_is_refused():
    with pytest.raises(BadRequest, match="JAMJET_ISOLATION is 'alone': it must be shared or dedicated"):
        load_settings({"JAMJET_ISOLATION": "alone"})


def test_what_is_told_wins_over_the_environment():
    settings = load_settings({"JAMJET_PORT": "80", "JAMJET_BIND": "0.0.0.0"}, port=90, bind=None)
    assert (settings.port, settings.bind) == (90, "0.0.0.0")


def test_only_listed_variables_are_taken_along():
    settings = load_settings(
        {
            "JAMJET_TEMPLATE_ENV": "REGION,ABSENT",
            "JAMJET_FUNCTION_ENV": "TOKEN",
            "REGION": "north",
            "TOKEN": "t",
            "SECRET": "s",
            "JAMJET_ENV": "SECRET",
        }
    )
    assert settings.env == {"REGION": "north", "TOKEN": "t"}


@pytest.mark.parametrize(
    ("url", "one_node"),
    [
        (".jamjet/runtime.db", True),
        ("sqlite:///x.db", True),
        ("/data/postgresql.db", True),
        ("postgres://db/x", False),
        ("postgresql+psycopg://db/x", False),
    ],
)
def test_a_database_file_keeps_everything_on_one_node(url, one_node):
    assert Settings(database_url=url).one_node is one_node


def test_settings_cross_a_call_as_a_plain_dict():
    settings = Settings(python_modules=("a", "b"), env={"REGION": "north"})
    assert Settings.from_dict(settings.as_dict()) == settings


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://127.0.0.1:7700"),
        ({"bind": "::1", "port": 80}, "http://[::1]:80"),
        ({"public_url": "https://agents.example.com/"}, "https://agents.example.com"),
    ],
)
def test_where_others_reach_it(settings, url):
    assert Settings(**settings).reachable_url == url


@pytest.mark.parametrize(
    "url", ["agents.example.com", "ftp://x", "https://x?a=1", "https://u:p@x", "http://[::1"]
)
def test_a_public_url_that_is_none_is_refused(url):
    with pytest.raises(BadRequest, match="JAMJET_PUBLIC_URL is "):
        load_settings({"JAMJET_PUBLIC_URL": url})


def test_agents_may_not_expire_before_their_next_heartbeat():
    with pytest.raises(BadRequest, match="it must be 0, or more than JAMJET_AGENT_HEARTBEAT, 10"):
        load_settings({"JAMJET_AGENT_EXPIRY": "10"})
    assert load_settings({"JAMJET_AGENT_EXPIRY": "11"}).agent_expiry == 11


@pytest.mark.parametrize("name", ["agent_heartbeat", "live_max"])
def test_an_installation_that_could_run_nothing_is_refused(name):
    sentence = rf"JAMJET_{name.upper()} is 0: it must be at least 1"
    with pytest.raises(BadRequest, match=sentence):
        load_settings({f"JAMJET_{name.upper()}": "0"})
    with pytest.raises(BadRequest, match=sentence):
        load_settings({}, below={name: 0})


def test_no_password_stands_in_a_text_about_the_settings():
    settings = load_settings(
        {"DATABASE_URL": "postgres://u:hunter2@db/x", "JAMJET_OTLP_ENDPOINT": "http://u:hunter2@o"}
    )
    assert "hunter2" not in repr(settings)
