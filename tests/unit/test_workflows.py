"""The workflows and their roles: what a checker of syntax cannot know."""

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from components import backup
from localregion.auth import allowed
from resource_types import INSTANCE, RULE, STACK_TAG, TAGGED, ResourceType
from settings import Settings, SettingsError
from settings.backup import Backup
from stackctl import changes
from stackctl.cli import app
from stackctl.protection import ALWAYS
from tests import example
from tests.programs import Stubs
from tests.unit.conftest import Run
from toolchain.pulumi_cli import VERSION

GITHUB = Path(__file__).resolve().parents[2] / ".github"
WORKFLOWS = {path.stem: path for path in sorted((GITHUB / "workflows").glob("*.yml"))}
ACTION = GITHUB / "actions" / "setup" / "action.yml"
SETUP = "./.github/actions/setup"
POLICIES = {path.stem: path for path in sorted((GITHUB / "policies").glob("*.json"))}
KMS = "arn:aws:kms:eu-central-1:123456789012:key/1"
#: A fork's pull request has another head repository.
OWN_BRANCH = "github.event.pull_request.head.repo.full_name == github.repository"


def workflow(name: str) -> dict[str, Any]:
    content = yaml.safe_load(WORKFLOWS[name].read_text())
    content["on"] = content.pop(True)  # YAML 1.1 reads `on` as a truth value
    return dict(content)


def jobs() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name in WORKFLOWS:
        content = workflow(name)
        for job, body in content["jobs"].items():
            yield f"{name}.{job}", content, body


def statements(policy: str) -> list[dict[str, Any]]:
    return list(json.loads(POLICIES[policy].read_text())["Statement"])


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_there_is_one_for_each_use() -> None:
    assert set(WORKFLOWS) == {"ci", "deploy", "preview", "promote", "sweep", "test-stack"}
    assert workflow("ci")["on"].keys() >= {"pull_request", "push"}
    assert workflow("deploy")["on"]["push"]["branches"] == ["main"]
    assert set(workflow("test-stack")["on"]["pull_request"]["types"]) >= {"labeled", "synchronize", "closed"}
    assert workflow("sweep")["on"]["schedule"]
    assert set(workflow("promote")["on"]) == {"workflow_dispatch"}
    assert workflow("promote")["jobs"]["up"]["environment"] == "production"


@pytest.mark.parametrize(("name", "job"), [("deploy", "up"), ("promote", "up"), ("test-stack", "create")])
def test_what_connects_to_machines_does_not_start_where_no_runner_reaches_them(name: str, job: str) -> None:
    body = workflow(name)["jobs"][job]
    first = body["steps"][0]
    assert first["if"] == "vars.DEPLOY_RUNNER == ''"
    refused = subprocess.run(["bash", "-c", first["run"]], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "DEPLOY_RUNNER" in refused.stdout


def test_a_job_says_which_subject_its_role_must_trust(tmp_path: Path) -> None:
    """The step's own script, with a stub of curl that answers as GitHub does."""
    first = yaml.safe_load(ACTION.read_text())["runs"]["steps"][0]
    subject = "repo:example@1234/mycat-ha@5678:environment:staging"
    claims = base64.urlsafe_b64encode(json.dumps({"sub": subject}).encode()).decode().rstrip("=")
    stubs = Stubs(tmp_path / "bin")
    stubs.add("curl", f"echo '{json.dumps({'value': f'header.{claims}.signature'})}'")
    variables = stubs.environment(ACTIONS_ID_TOKEN_REQUEST_URL="https://token?a=b", ACTIONS_ID_TOKEN_REQUEST_TOKEN="t")
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", first["run"]], env=variables, check=True, capture_output=True, text=True
    )
    assert done.stdout == f"subject: {subject}\n"
    assert stubs.calls("curl")[0].endswith("https://token?a=b&audience=sts.amazonaws.com")
    trust = filled("trust", ACCOUNT="1", REPOSITORY="example@1234/mycat-ha@5678", ENVIRONMENT="staging")
    assert subject in trust


@pytest.mark.parametrize("file", [*WORKFLOWS.values(), ACTION], ids=lambda file: f"{file.parent.name}/{file.name}")
def test_actions_are_pinned_by_commit_and_name_their_version(file: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", file.read_text())
    assert used
    for action, comment in used:
        if action == SETUP:
            continue
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_workflow_runs_a_forks_code_with_this_repositorys_rights(name: str) -> None:
    content = workflow(name)
    assert not content["on"].keys() & {"pull_request_target", "workflow_run", "issue_comment"}
    assert content["permissions"] == {}
    assert "secrets." not in WORKFLOWS[name].read_text()


def test_whoever_gets_a_role_runs_in_an_environment_and_on_an_own_branch() -> None:
    with_role = 0
    for name, content, job in jobs():
        if "id-token" not in job["permissions"]:
            assert SETUP not in str(job)
            continue
        with_role += 1
        assert [step.get("uses") for step in job["steps"]].count(SETUP) == 1, name
        assert job["environment"], name
        if "pull_request" in content["on"]:
            # The preview's own job is behind another one that has the condition.
            guarded = [job, *(content["jobs"][before] for before in listed(job.get("needs", [])))]
            assert any(OWN_BRANCH in str(candidate.get("if")) for candidate in guarded), name
    assert with_role == 6


def test_only_the_setup_assumes_a_role_and_gets_all_that_it_needs() -> None:
    inputs = yaml.safe_load(ACTION.read_text())["inputs"]
    required = {key for key, value in inputs.items() if value.get("required")}
    for name, _, job in jobs():
        assert "configure-aws-credentials" not in str(job), name
        for step in job["steps"]:
            if step.get("uses") == SETUP:
                assert required <= step["with"].keys() <= inputs.keys(), name


def test_every_job_runs_the_toolchains_pulumi() -> None:
    used = [
        version
        for file in (*WORKFLOWS.values(), ACTION)
        for version in re.findall(
            r"uses: pulumi/actions@.*\n(?:\s+env:\n.*\n)?\s+with:\n\s+pulumi-version: (\S+)", file.read_text()
        )
    ]
    assert len(used) == sum(file.read_text().count("pulumi/actions@") for file in (*WORKFLOWS.values(), ACTION)) == 4
    assert set(used) == {VERSION}


def test_nothing_that_changes_a_stack_is_cut_off() -> None:
    for name, content, job in jobs():
        changes = "id-token" in job["permissions"] and not name.startswith("preview.")
        assert not (changes and content["concurrency"]["cancel-in-progress"]), name


def test_the_commands_exist() -> None:
    known = {
        command.name or command.callback.__name__.replace("_", "-")
        for command in app.registered_commands
        if command.callback
    }
    used = set()
    for path in WORKFLOWS.values():
        used |= set(re.findall(r"-m stackctl ([\w-]+)", path.read_text()))
    assert used == {"changes", "concerned", "create", "destroy", "heal", "list", "render", "sweep"}
    assert used <= known


@pytest.mark.parametrize(("earlier", "request_"), [("", "POST {0}/7/comments"), ("41\n42", "PATCH {0}/comments/41")])
def test_the_comment_of_an_earlier_push_is_replaced(tmp_path: Path, earlier: str, request_: str) -> None:
    """The step's own script, with a stub of GitHub's command that knows of ``earlier`` comments."""
    (step,) = [step for step in workflow("preview")["jobs"]["files"]["steps"] if "GH_TOKEN" in step.get("env", {})]
    comment = tmp_path / "comment"
    comment.write_text(changes.comment("staging", None, {}))
    stubs = Stubs(tmp_path / "bin")
    stubs.add("gh", f'if [ "$2" = --paginate ]; then printf "%s" "{earlier}"; fi')
    variables = stubs.environment(RUNNER_TEMP=str(tmp_path), COMMENTS="repos/a/b/issues", NUMBER="7")
    subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], env=variables, check=True)
    listing, posting = stubs.calls("gh")
    first = "<!-- mycat-ha: files on the machines of staging -->"
    assert listing.endswith(f'repos/a/b/issues/7/comments --jq .[] | select(.body | startswith("{first}")) | .id')
    assert posting == f"api --silent --method {request_.format('repos/a/b/issues')} --field body=@{comment}"


def test_the_preview_may_only_look() -> None:
    for statement in statements("preview"):
        for action in listed(statement["Action"]):
            assert re.fullmatch(r"ec2:Describe\w+|s3:(GetObject|ListBucket)|kms:Decrypt", action)


@pytest.mark.parametrize("policy", ["deploy", "preview"])
def test_no_role_may_do_everything(policy: str) -> None:
    for statement in statements(policy):
        assert statement["Effect"] == "Allow"
        for action in listed(statement["Action"]):
            assert re.fullmatch(r"[a-z0-9]+:[A-Z][A-Za-z]+|ec2:Describe\*", action)


def test_the_deployment_changes_only_what_is_its_stacks() -> None:
    """Every statement that changes something is bound to the stack: by a tag, by its state's path, or by a key."""
    looks = re.compile(r"\w+:(Describe|Get|List)")
    for statement in statements("deploy"):
        if all(looks.match(action) for action in listed(statement["Action"])):
            continue
        bound = json.dumps([statement["Resource"], statement.get("Condition")])
        exceptions = {
            *("CreateFromDebiansImages", "DeleteReservations", "GiveEndpointsTheApisName", "GiveThemToInstances"),
            "KeepTheStacksSecrets",
        }
        assert "${STACKS}" in bound or statement["Sid"] in exceptions, statement["Sid"]
    (passing,) = [item for item in statements("deploy") if item["Action"] == "iam:PassRole"]
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.${DNS_SUFFIX}"}}
    names = [arn.partition(":role/")[2] for arn in passing["Resource"]]
    assert names == ["cluster-backup-role-*", "cluster-vip-role-*"]


def test_the_policies_fit_into_a_role() -> None:
    for path in POLICIES.values():
        assert len(re.sub(r"\s", "", path.read_text())) < 10_240  # IAM's limit for a role's inline policies


def test_only_known_placeholders() -> None:
    explained = (GITHUB / "policies" / "README.md").read_text()
    for path in POLICIES.values():
        for placeholder in re.findall(r"\$\{(\w+)\}", path.read_text()):
            assert f"${placeholder} " in explained or f"${placeholder}'" in explained


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_is_for_one_partition_only(policy: str) -> None:
    arns = re.findall(r'"(arn:[^"]*)"', POLICIES[policy].read_text())
    assert all(arn.startswith("arn:${PARTITION}:") for arn in arns)
    assert "ec2.amazonaws.com" not in POLICIES[policy].read_text()


Arn = Callable[[ResourceType], str]


def filled(policy: str, **names: str) -> str:
    """The document with its placeholders filled in, as envsubst does."""
    names = {"PARTITION": "aws", "DNS_SUFFIX": "amazonaws.com", **names}
    return re.sub(r"\$\{(\w+)\}", lambda match: names[match[1]], POLICIES[policy].read_text())


class TestPreview:
    """preview.json and trust.json, for the role of one stack's previews."""

    NAMES: ClassVar = {"REGION": "eu-central-1", "STATE_BUCKET": "state", "ACCOUNT": "123456789012"}
    REPOSITORY = "example@1234/mycat-ha@5678"

    def may(self, stack: str, action: str, target: str) -> bool:
        """``stack``'s own key is the one of its name."""
        document = filled("preview", **self.NAMES, STACKS=stack, KEY_ARN=f"arn:aws:kms:eu-central-1:1:key/{stack}")
        return allowed([document], action, target, {"aws:RequestedRegion": "eu-central-1"})

    def test_reads_the_secrets_and_the_state_of_its_own_stack_only(self) -> None:
        for stack, other in (("staging", "production"), ("production", "staging")):
            assert self.may(stack, "kms:Decrypt", f"arn:aws:kms:eu-central-1:1:key/{stack}")
            assert not self.may(stack, "kms:Decrypt", f"arn:aws:kms:eu-central-1:1:key/{other}")
            state = "arn:aws:s3:::state/.pulumi/stacks/mycat-ha/{}.json"
            assert self.may(stack, "s3:GetObject", state.format(stack))
            assert not self.may(stack, "s3:GetObject", state.format(other))

    def test_each_stack_is_previewed_in_an_environment_of_its_own(self) -> None:
        assert workflow("preview")["jobs"]["preview"]["environment"] == "preview-${{ matrix.stack }}"
        explained = (GITHUB / "policies" / "README.md").read_text()
        for stack in ALWAYS:
            assert f"`preview-{stack}`" in explained
            trust = filled("trust", **self.NAMES, REPOSITORY=self.REPOSITORY, ENVIRONMENT=f"preview-{stack}")
            assert json.loads(trust)["Statement"][0]["Condition"]["StringEquals"][
                "token.actions.githubusercontent.com:sub"
            ].endswith(f":environment:preview-{stack}")

    def test_the_files_are_shown_without_a_role_or_an_environment(self) -> None:
        job = workflow("preview")["jobs"]["files"]
        assert "environment" not in job
        assert set(job["permissions"]) == {"contents", "pull-requests"}


class TestDeployment:
    """deploy.json, evaluated as IAM does, for the role of the test stacks: what it may do to which resource."""

    ACCOUNT, REGION, STACKS = "123456789012", "eu-central-1", "test-*"
    BOUND: ClassVar = {"iam:PermissionsBoundary": f"arn:aws:iam::{ACCOUNT}:policy/mycat-ha-balancers"}

    def may(self, action: str, target: str, **context: str) -> bool:
        """``request`` and ``own``: the stack tag in the request and on the resource; others as IAM's keys say."""
        keys = {"request": f"aws:RequestTag/{STACK_TAG}", "own": f"aws:ResourceTag/{STACK_TAG}"}
        names = {"ACCOUNT": self.ACCOUNT, "REGION": self.REGION, "STACKS": self.STACKS}
        policy = filled("deploy", **names, STATE_BUCKET="state", KEY_ARN="arn:aws:kms:eu-central-1:1:key/x")
        condition = {"aws:RequestedRegion": self.REGION, **{keys.get(k, k): v for k, v in context.items()}}
        return allowed([policy], action, target, condition)

    @pytest.fixture
    def arn(self, request: pytest.FixtureRequest) -> Arn:
        """An ARN of a type. IAM's have names: what the program calls the resource, and Pulumi's random suffix."""

        def make(type_: ResourceType) -> str:
            service, _, kind = type_.arn.partition(":")
            if service != "iam":
                return f"arn:aws:{service}:{self.REGION}:{self.ACCOUNT}:{kind}/x"
            (resource,) = request.getfixturevalue("run_program")().of_type(type_.token)
            return f"arn:aws:iam::{self.ACCOUNT}:{kind}/{resource.name}-0a1b2c3"

        return make

    @pytest.mark.parametrize("type_", TAGGED, ids=lambda type_: type_.token)
    def test_creates_what_gets_the_stacks_tag_and_nothing_else(self, type_: ResourceType, arn: Arn) -> None:
        action, target = f"{type_.arn.partition(':')[0]}:{type_.create}", arn(type_)
        assert self.may(action, target, request="test-a", **self.BOUND)
        assert not self.may(action, target, request="staging", **self.BOUND)
        assert not self.may(action, target, **self.BOUND)

    @pytest.mark.parametrize("type_", TAGGED, ids=lambda type_: type_.token)
    def test_tags_what_it_creates(self, type_: ResourceType, arn: Arn) -> None:
        service, _, kind = type_.arn.partition(":")
        target = arn(type_)
        if service == "iam":
            action, during = f"iam:Tag{kind.title().replace('-', '')}", {}
        else:
            action, during = "ec2:CreateTags", {"ec2:CreateAction": type_.create}
            # Else whatever stands in the account could be made the stack's own, and then be deleted.
            assert not self.may(action, target, request="test-a")
        assert self.may(action, target, request="test-a", **during)
        assert not self.may(action, target, request="staging", **during)

    @pytest.mark.parametrize("type_", TAGGED, ids=lambda type_: type_.token)
    def test_deletes_what_has_the_stacks_tag_and_nothing_else(self, type_: ResourceType, arn: Arn) -> None:
        action, target = f"{type_.arn.partition(':')[0]}:{type_.delete}", arn(type_)
        if type_.kind == RULE:  # a rule is revoked from its group
            target = target.replace("security-group-rule", "security-group")
        assert self.may(action, target, own="test-a")
        assert not self.may(action, target, own="staging")
        assert not self.may(action, target)

    def test_starts_instances_of_debians_images_only(self, arn: Arn) -> None:
        image = f"arn:aws:ec2:{self.REGION}::image/ami-1"
        assert self.may("ec2:RunInstances", image, **{"ec2:Owner": "136693071363"})
        assert not self.may("ec2:RunInstances", image, **{"ec2:Owner": self.ACCOUNT})
        # The interfaces are there before the instance is, so they carry the tag themselves.
        interface = next(arn(type_) for type_ in TAGGED if type_.kind == "network interface")
        assert self.may("ec2:RunInstances", interface, own="test-a")
        assert not self.may("ec2:RunInstances", interface, own="staging")

    def test_takes_no_other_stacks_instance(self, arn: Arn) -> None:
        instance = next(arn(type_) for type_ in TAGGED if type_.token == INSTANCE)
        for action in ("StopInstances", "RebootInstances", "ModifyInstanceAttribute", "CreateTags", "DeleteTags"):
            assert self.may(f"ec2:{action}", instance, own="test-a")
            assert not self.may(f"ec2:{action}", instance, own="production")
        assert not self.may("ec2:CreateTags", instance, own="test-a", request="production")

    def test_leaves_the_virtual_ip_to_the_balancers(self, arn: Arn) -> None:
        interface = next(arn(type_) for type_ in TAGGED if type_.kind == "network interface")
        for action in ("AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"):
            assert not self.may(f"ec2:{action}", interface, own="test-a")

    def test_gives_only_the_balancers_role_to_instances_only(self, arn: Arn) -> None:
        role = next(arn(type_) for type_ in TAGGED if type_.arn == "iam:role")
        other = f"arn:aws:iam::{self.ACCOUNT}:role/administrator"
        assert self.may("iam:PassRole", role, **{"iam:PassedToService": "ec2.amazonaws.com"})
        assert not self.may("iam:PassRole", role, **{"iam:PassedToService": "lambda.amazonaws.com"})
        assert not self.may("iam:PassRole", other, **{"iam:PassedToService": "ec2.amazonaws.com"})

    @pytest.mark.parametrize("action", ["CreateRole", "PutRolePolicy", "PutRolePermissionsBoundary"])
    def test_makes_and_changes_a_role_only_within_the_boundary(self, action: str, arn: Arn) -> None:
        role = next(arn(type_) for type_ in TAGGED if type_.arn == "iam:role")
        tags = {"request": "test-a", "own": "test-a"}
        wide = {"iam:PermissionsBoundary": "arn:aws:iam::aws:policy/AdministratorAccess"}
        assert self.may(f"iam:{action}", role, **tags, **self.BOUND)
        assert not self.may(f"iam:{action}", role, **tags, **wide)
        assert not self.may(f"iam:{action}", role, **tags)

    def test_cannot_take_the_boundary_away_or_widen_it(self, arn: Arn) -> None:
        role = next(arn(type_) for type_ in TAGGED if type_.arn == "iam:role")
        tags = {"request": "test-a", "own": "test-a"}
        for action in ("DeleteRolePermissionsBoundary", "AttachRolePolicy", "UpdateAssumeRolePolicy"):
            assert not self.may(f"iam:{action}", role, **tags, **self.BOUND)
        boundary = self.BOUND["iam:PermissionsBoundary"]
        for action in ("CreatePolicyVersion", "SetDefaultPolicyVersion", "DeletePolicy"):
            assert not self.may(f"iam:{action}", boundary, **tags, **self.BOUND)


class TestBoundary:
    """boundary.json, for the load balancers' role of the stack test-a."""

    ENI = "arn:aws:ec2:eu-central-1:123456789012:network-interface/eni-1"

    def may(self, action: str, target: str, stack: str = "test-a", **keys: str) -> bool:
        context = {f"aws:PrincipalTag/{STACK_TAG}": "test-a", f"aws:ResourceTag/{STACK_TAG}": stack, **keys}
        return allowed([filled("boundary", ACCOUNT="123456789012")], action, target, context)

    def test_allows_what_the_programs_own_policy_allows(self, run_program: Run) -> None:
        policy = json.loads(run_program().named("cluster-vip-policy").inputs["policy"])
        actions = {action for statement in policy["Statement"] for action in listed(statement["Action"])}
        assert actions >= {"ec2:AssignPrivateIpAddresses"}
        for action in actions:
            assert self.may(action, self.ENI), action

    def test_allows_what_backups_need_below_the_stacks_own_prefix(self) -> None:
        document = backup.policy(Backup.model_validate({"bucket": "backups", "kmsKey": KMS}), "mycat-ha/test-a", "aws")
        s3 = {"s3:prefix": "mycat-ha/test-a/", "kms:ViaService": "s3.eu-central-1.amazonaws.com"}
        for statement in document["Statement"]:
            for action in listed(statement["Action"]):
                target = statement["Resource"].replace("*", "2026/backup.json")
                assert self.may(action, target, **s3), action
        others = "arn:aws:s3:::backups/mycat-ha/production/2026/backup.json"
        for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
            assert not self.may(action, others)
        assert not self.may("s3:ListBucket", "arn:aws:s3:::backups", **{"s3:prefix": "mycat-ha/production/"})
        assert not self.may("s3:ListBucket", "arn:aws:s3:::backups")
        assert not self.may("kms:Decrypt", KMS, **{"kms:ViaService": "ec2.eu-central-1.amazonaws.com"})

    def test_allows_nothing_else_and_no_other_stacks_interfaces(self) -> None:
        assert not self.may("ec2:AssignPrivateIpAddresses", self.ENI, stack="production")
        for action in ("ec2:RunInstances", "ec2:ModifyNetworkInterfaceAttribute", "iam:PassRole", "sts:AssumeRole"):
            assert not self.may(action, self.ENI)

    def test_the_programs_role_gets_it_by_a_setting(self, run_program: Run) -> None:
        bound = "arn:aws:iam::123456789012:policy/mycat-ha-balancers"
        recorded = run_program(example.settings(lambda raw: raw["vip"].update(permissionsBoundary=bound)))
        assert recorded.named("cluster-vip-role").inputs["permissionsBoundary"] == bound
        assert run_program().named("cluster-vip-role").inputs.get("permissionsBoundary") is None

    def test_what_is_no_policy_is_refused(self) -> None:
        with pytest.raises(SettingsError, match=r"mycat-ha:vip\.permissionsBoundary"):
            Settings.parse(example.settings(lambda raw: raw["vip"].update(permissionsBoundary="mycat-ha-balancers")))
