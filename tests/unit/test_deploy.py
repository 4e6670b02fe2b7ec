"""``cluster.yaml`` and ``deploy/``: what Ray, Serve and shells make of the files, without a cluster."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.launch.environment import EVERYWHERE

# Serve's own models warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CLUSTERS = ("cluster.yaml", "deploy/local.yaml")
SECRET_WORDS = re.compile(r"token|password|secret|database_url|api_key", re.IGNORECASE)


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def sourced(**environ: str) -> dict[str, str]:
    """What ``deploy/ray.env`` adds to an environment."""
    given = {"PATH": "/usr/bin:/bin", "HOME": "/home/me", "VIRTUAL_ENV": "/opt/venv", **environ}
    shell = ["/bin/sh", "-euc", f"set -a; . {shlex.quote(str(DEPLOY / 'ray.env'))}; set +a; env -0"]
    found = subprocess.run(shell, env=given, capture_output=True, text=True, check=True).stdout
    pairs = dict(pair.partition("=")[::2] for pair in found.split("\0") if pair)
    return {
        name: value for name, value in pairs.items() if name not in ("PATH", "HOME", "VIRTUAL_ENV", "PWD")
    }


class TestRayEnv:
    def test_it_says_what_one_machine_is_told_too(self) -> None:
        made = sourced()

        assert {name: made.get(name) for name in EVERYWHERE} == EVERYWHERE

    def test_the_wrapper_is_the_environments_own(self) -> None:
        assert sourced()["RAY_SERVE_HAPROXY_BINARY_PATH"] == "/opt/venv/bin/jamjet-haproxy"

    def test_without_an_environment_it_says_so(self) -> None:
        with pytest.raises(subprocess.CalledProcessError) as failed:
            sourced(VIRTUAL_ENV="")

        assert "activate the environment" in failed.value.stderr

    def test_what_was_chosen_before_is_kept(self) -> None:
        assert sourced()["RAY_AUTH_TOKEN_PATH"] == "/home/me/.ray/auth_token"

        made = sourced(RAY_AUTH_TOKEN_PATH="/etc/ray/token", JAMJET_BIND="10.0.0.1")

        assert made["RAY_AUTH_TOKEN_PATH"] == "/etc/ray/token"
        assert made["JAMJET_BIND"] == "10.0.0.1"

    def test_ray_and_serve_know_every_variable(self) -> None:
        """A variable that a release of Ray renamed would be passed over in silence."""
        import ray
        from ray import _raylet

        package = Path(ray.__file__).parent
        sources = ("serve/_private/constants.py", "_common/usage/usage_constants.py")
        texts = b"".join((package / name).read_bytes() for name in sources)
        texts += Path(_raylet.__file__).read_bytes()
        of_ray = [name for name in sourced() if name.startswith("RAY_")]

        assert [name for name in of_ray if name.encode() not in texts] == []


class TestServe:
    def test_serve_takes_it(self) -> None:
        from ray.serve.schema import ServeDeploySchema

        config = ServeDeploySchema.model_validate(loaded("deploy/serve.yaml"))

        assert config.proxy_location == "EveryNode"
        assert (config.http_options.host, config.http_options.port) == ("0.0.0.0", 7700)
        assert config.http_options.request_timeout_s is None

    def test_it_names_what_there_is(self) -> None:
        from api.serve import APP_NAME, build_app

        (application,) = loaded("deploy/serve.yaml")["applications"]

        assert application["name"] == APP_NAME
        assert application["import_path"] == f"{build_app.__module__}:{build_app.__name__}"
        # It sets replicas itself, which Serve would not take from both.
        assert "deployments" not in application


@pytest.mark.parametrize("name", CLUSTERS)
class TestClusters:
    def test_ray_up_takes_it(self, name: str) -> None:
        from ray.autoscaler._private.util import prepare_config, validate_config

        prepared = prepare_config(loaded(name))

        validate_config(prepared)
        if name == "cluster.yaml":
            types = prepared["available_node_types"]
            assert types[prepared["head_node_type"]]["max_workers"] == 0
            assert types["worker"]["max_workers"] <= prepared["max_workers"]

    def test_it_has_no_key_that_the_schema_does_not_know(self, name: str) -> None:
        import json

        import jsonschema
        import ray.autoscaler

        schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
        jsonschema.validate(loaded(name), schema)

        assert loaded(name).keys() <= schema["properties"].keys()

    def test_each_node_starts_with_the_environment_and_a_token_from_a_file(self, name: str) -> None:
        config = loaded(name)
        home = f"/home/{config['auth']['ssh_user']}"

        for start in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
            steps = [
                "activate",
                "set -a",
                "jamjet-secrets/jamjet.env",
                "deploy/ray.env",
                "set +a",
                "ray start",
            ]
            assert sorted(steps, key=start.index) == steps
        assert config["file_mounts"][f"{home}/.ray/auth_token"].startswith("~/")
        assert sourced(HOME=home)["RAY_AUTH_TOKEN_PATH"] == f"{home}/.ray/auth_token"

    def test_the_dashboard_is_for_the_head_alone(self, name: str) -> None:
        (start,) = [line for line in loaded(name)["head_start_ray_commands"] if "--head" in line]

        assert "--dashboard-host=127.0.0.1" in start

    def test_what_is_installed_is_locked(self, name: str) -> None:
        installs = [line for line in loaded(name)["setup_commands"] if "pip install" in line]

        assert all("--require-hashes" in line or "--no-index" in line for line in installs)
        assert len(installs) == 2

    def test_commands_are_shell(self, name: str) -> None:
        config = loaded(name)
        for key in config:
            for line in config[key] if key.endswith("_commands") else ():
                subprocess.run(["/bin/sh", "-nc", line], check=True)


def test_addresses_of_examples_are_documentations() -> None:
    provider = loaded("deploy/local.yaml")["provider"]

    assert all(address.startswith("192.0.2.") for address in (provider["head_ip"], *provider["worker_ips"]))


class TestKubeRay:
    @pytest.fixture
    def objects(self) -> dict[str, Any]:
        return {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())}

    @pytest.fixture
    def cluster(self, objects: dict[str, Any]) -> dict[str, Any]:
        cluster: dict[str, Any] = objects["RayService"]["spec"]["rayClusterConfig"]
        return cluster

    def test_it_serves_what_serve_yaml_does(self, objects: dict[str, Any]) -> None:
        from ray.serve.schema import ServeDeploySchema

        embedded = yaml.safe_load(objects["RayService"]["spec"]["serveConfigV2"])

        ServeDeploySchema.model_validate(embedded)
        assert embedded == loaded("deploy/serve.yaml")

    def test_it_is_for_this_release_of_ray(self, cluster: dict[str, Any]) -> None:
        import ray

        assert cluster["rayVersion"] == ray.__version__

    def test_no_secret_stands_in_it(self, objects: dict[str, Any]) -> None:
        assert "Secret" not in objects
        for found in objects.values():
            for path in leaves(found):
                if SECRET_WORDS.search(path[-1]):
                    assert path[-1] == "secretName" or path[-2] in ("secretKeyRef", "secretRef"), path
        assert objects["RayService"]["spec"]["rayClusterConfig"]["authOptions"]["mode"] == "token"

    def test_the_loss_of_the_head_is_outlived(self, cluster: dict[str, Any]) -> None:
        options = cluster["gcsFaultToleranceOptions"]

        assert options["redisAddress"]
        assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"]
        assert "externalStorageNamespace" not in options

    def test_ports_have_the_names_that_the_operator_and_the_probes_look_for(
        self, cluster: dict[str, Any]
    ) -> None:
        for container in ray_containers(cluster):
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert ports["serve"] == 7700
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"]["port"] in ports

    def test_a_worker_leaves_before_its_pod_ends(self, cluster: dict[str, Any]) -> None:
        (group,) = cluster["workerGroupSpecs"]
        spec = group["template"]["spec"]
        command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]

        subprocess.run(["/bin/sh", "-nc", command[-1]], check=True)
        assert "ray drain-node" in command[-1]
        (slept,) = re.findall(r"sleep (\d+)", command[-1])
        assert int(slept) < spec["terminationGracePeriodSeconds"]
        assert 0 < group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]

    def test_ray_knows_the_command_and_its_options(self, cluster: dict[str, Any]) -> None:
        from ray.scripts.scripts import cli

        command = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]
        words = shlex.split(command["exec"]["command"][-1].partition("&&")[0])
        cli.commands["drain-node"].make_context("drain-node", words[2:])  # type: ignore[attr-defined]

    def test_nothing_runs_as_root_and_only_the_cluster_reaches_ray(
        self, objects: dict[str, Any], cluster: dict[str, Any]
    ) -> None:
        templates = [cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]]
        (policy,) = [found for kind, found in objects.items() if kind == "NetworkPolicy"]

        for template in templates:
            assert template["spec"]["securityContext"]["runAsNonRoot"] is True
            assert template["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
        open_to_all = [rule for rule in policy["spec"]["ingress"] if "from" not in rule]
        assert [port["port"] for rule in open_to_all for port in rule["ports"]] == [7700]

    def test_settings_are_ours(self, objects: dict[str, Any]) -> None:
        for name in objects["ConfigMap"]["data"]:
            assert name.startswith("JAMJET_")


def ray_containers(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """The containers that run Ray, of the head and the workers."""
    templates = [
        cluster["headGroupSpec"]["template"],
        *(group["template"] for group in cluster["workerGroupSpecs"]),
    ]
    return [container for template in templates for container in template["spec"]["containers"]]


def leaves(value: Any, path: tuple[str, ...] = ("",)) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each value that is neither mapping nor list."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, (*path, str(key)))
    elif isinstance(value, list):
        for below in value:
            yield from leaves(below, path)
    else:
        yield path


class TestImage:
    @pytest.fixture
    def steps(self) -> list[tuple[str, str]]:
        """(instruction, rest) of each step, with continued lines joined."""
        text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
        lines = text.replace("\\\n", " ").splitlines()
        return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]

    def test_what_is_copied_exists_and_reaches_the_builder(self, steps: list[tuple[str, str]]) -> None:
        let_in = [
            line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
        ]
        copied = [
            source
            for kind, rest in steps
            if kind == "COPY" and "--from" not in rest
            for source in rest.split()[:-1]
        ]

        assert all((ROOT / source).exists() for source in copied)
        assert set(copied) == set(let_in)
        assert not any(fnmatch("jamjet.env", pattern) for pattern in let_in)

    def test_every_package_is_copied(self, steps: list[tuple[str, str]]) -> None:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

        assert {f"{name} ./{name}" for name in packages} <= {rest for kind, rest in steps if kind == "COPY"}
        assert project["project"]["readme"] in "".join(rest for kind, rest in steps if kind == "COPY")

    def test_its_environment_is_that_of_ray_env(self, steps: list[tuple[str, str]]) -> None:
        *_, rest = [rest for kind, rest in steps if kind == "ENV"]
        made = dict(word.partition("=")[::2] for word in shlex.split(rest))
        wanted = sourced(VIRTUAL_ENV=made["VIRTUAL_ENV"])

        del wanted["RAY_AUTH_TOKEN_PATH"]
        assert wanted.items() <= made.items()
        assert made.keys() - wanted.keys() == {"VIRTUAL_ENV", "PATH", "PYTHONUNBUFFERED"}

    def test_it_does_not_run_as_root(self, steps: list[tuple[str, str]]) -> None:
        last_stage = steps[max(index for index, (kind, _) in enumerate(steps) if kind == "FROM") :]
        users = [rest for kind, rest in last_stage if kind == "USER"]

        assert users == ["1000"]
        assert not [rest for kind, rest in last_stage if kind in ("ARG", "ADD")]

    def test_what_is_installed_is_locked(self, steps: list[tuple[str, str]]) -> None:
        installs = [rest for kind, rest in steps if kind == "RUN" and "pip install" in rest]

        assert len(installs) == 2
        assert all("--require-hashes" in rest or "--no-index" in rest for rest in installs)
