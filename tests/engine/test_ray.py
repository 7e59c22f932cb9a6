"""On a Ray cluster the same comes out as here, whatever happens to actors and nodes."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import ray_nodes, servers, small_network
from support.photos import photo
from support.sources import keep
from support.waiting import eventually
from typer.testing import CliRunner, Result

from depth_core import catalog
from depth_core.cli import commands
from depth_core.engine import choose, chunk, ray_actor, ray_cluster, ray_items, stages
from depth_core.engine.base import Steps
from depth_core.engine.chunk_context import Redo, Source
from depth_core.engine.local import LocalEngine
from depth_core.engine.ray_actor import Actor, Job, Setup
from depth_core.engine.ray_cluster import Node
from depth_core.engine.ray_pool import Pool
from depth_core.engine.stages import Item, Plan
from depth_core.errors import ConfigurationError, StoreError
from depth_core.inference import checkpoints, predictor
from depth_core.inference.predictor import Predictor
from depth_core.ingest import sources
from depth_core.output.journal import read_journal
from depth_core.output.outcomes import Outcome
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

pytest.importorskip("ray", reason="the extra `ray` is not installed")

CHUNK = "photos-00000000-00000"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_nodes.ray_cluster(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def on_ray(cluster: Any) -> Settings:
    return Settings(device="cpu", engine="ray", ray_address=cluster.address, ray_block_images=2)


@pytest.fixture(scope="module")
def checkpoint() -> checkpoints.Checkpoint:
    return checkpoints.resolve(catalog.BY_KEY["tiny"], Settings())


@pytest.fixture(scope="module")
def engine(shared: Store, on_ray: Settings, checkpoint: checkpoints.Checkpoint) -> Iterator[Any]:
    """Open for all tests, and one actor more than there is room for: a third node would get it."""
    with choose.open_engine(checkpoint, store=shared, settings=on_ray.model_copy(update={"ray_actors": 3})) as engine:
        eventually(lambda: engine.pool.ended(0.1) or len(engine.pool.ready) == 2)
        yield engine


def items_of(store: Store, seeds: range, folder: str, names: dict[int, str] | None = None) -> list[Item]:
    """Images of the store, each to be written into a folder of its own."""
    hashes = keep(store, *(photo(seed=seed) for seed in seeds))
    names = names or {}
    return [
        Item(sha, sources.reader(store, sha), f"{folder}/{sha}", names.get(seed, str(seed)))
        for seed, sha in zip(seeds, hashes, strict=True)
    ]


def complete(store: Store, items: list[Item]) -> bool:
    return all(stages.find(item, store) for item in items)


def nothing_half_written(store: Store, folder: str) -> bool:
    """Every folder has its mark of completion, and there is no part of a file."""
    folders = {key.rpartition("/")[0] for key in store.keys(folder)}
    return all(store.exists(f"{each}/depth.json") for each in folders)


# -- the same as here ---------------------------------------------------------------------------------------------------------


def _plain(outcome: Outcome) -> Outcome:
    return replace(outcome, seconds={}, finished_at="")


@pytest.mark.parametrize("range_", ["image", "chunk"])
def test_a_chunk_has_the_same_files_and_outcomes_as_from_the_local_engine(
    range_: str, engine: Any, shared: Store, store: Store, settings: Settings, profile: Profile, tiny: Predictor
) -> None:
    images = [*(photo(seed=n) for n in range(7)), b"no image", photo(seed=7)[:900]]
    results = []
    for where, opened in ((store, LocalEngine(tiny, store, settings)), (shared, engine)):
        hashes = keep(where, *images)
        results.append(
            chunk.run(
                [Source(sha, sha[:6]) for sha in hashes],
                profile=profile.model_copy(update={"range": range_}),
                chunk=f"{CHUNK}-{range_}",
                run_id="run",
                checkpoint=opened.checkpoint,
                open_engine=lambda found, opened=opened: nullcontext(opened),
                store=where,
                settings=settings,
            )
        )
    local, ray = ({sha: _plain(outcome) for sha, outcome in result.outcomes.items()} for result in results)
    assert local == ray
    assert sorted(outcome.error_kind or "" for outcome in ray.values()) == [""] * 7 + ["not_an_image", "truncated_image"]
    for outcome in (each for each in ray.values() if each.status == "succeeded"):
        assert all(store.read(f"{outcome.folder}/{n}") == shared.read(f"{outcome.folder}/{n}") for n in ("depth.png",))
    assert results[0].progress.done == results[1].progress.done


def test_it_is_the_model_that_was_asked_for_and_a_run_of_nothing_ends(
    engine: Any, checkpoint: checkpoints.Checkpoint, plan: Plan
) -> None:
    assert engine.checkpoint == checkpoint
    assert list(engine.run([], plan)) == []


def test_both_nodes_take_part_and_each_image_comes_out_once(engine: Any, shared: Store, plan: Plan) -> None:
    items = items_of(shared, range(24), "depth/both")
    ended = list(engine.run(iter(items), plan))
    assert sorted(item.source for item, _ in ended) == sorted(item.source for item in items)
    assert complete(shared, items)
    assert {outcome.node for _, outcome in ended} == {member.node for member in engine.pool.ready}
    assert len({outcome.node for _, outcome in ended}) == 2


def test_items_are_read_as_the_work_goes_on(engine: Any, shared: Store, plan: Plan) -> None:
    read = []

    def lazily() -> Iterator[Item]:
        for item in items_of(shared, range(60), "depth/lazy"):
            read.append(item)
            yield item

    run = engine.run(lazily(), plan)
    next(run)
    assert len(read) < 40
    run.close()


def test_images_that_are_not_in_the_store_are_read_here(engine: Any, shared: Store, plan: Plan) -> None:
    def absent() -> bytes:
        raise FileNotFoundError("gone")

    here = [Item("here", lambda: photo(), "depth/here"), Item("gone", absent, "depth/gone")]
    ended = {item.source: outcome.error_kind for item, outcome in engine.run(here, plan)}
    assert ended["here"] is None
    assert ended["gone"] is not None
    assert shared.exists("depth/here/depth.json")


def test_alone_is_one_image_at_a_time_each_to_its_end(engine: Any, shared: Store, plan: Plan) -> None:
    at_work: list[str] = []

    def watched() -> Iterator[Item]:
        for item in items_of(shared, range(3), "depth/alone"):
            assert not at_work
            at_work.append(item.source)
            yield item

    for item, _ in engine.run(watched(), plan, alone=True):
        at_work.remove(item.source)


# -- what goes wrong ----------------------------------------------------------------------------------------------------------


def test_an_image_on_which_the_network_fails_costs_its_neighbours_nothing(engine: Any, shared: Store, plan: Plan) -> None:
    items = items_of(shared, range(6), "depth/odd", {3: "odd"})
    ended = {item.name: outcome for item, outcome in engine.run(items, plan, steps=Steps(predict=ray_nodes.fail_at))}
    assert {name: outcome.error_kind for name, outcome in ended.items()} == {**dict.fromkeys("01245"), "odd": "internal"}
    assert "does not like it" in (ended["odd"].error_message or "")


def test_a_network_that_fails_on_all_images_is_an_error_of_its_own_kind(engine: Any, shared: Store, plan: Plan) -> None:
    with pytest.raises(RuntimeError, match=r"^the device is gone$"):
        list(engine.run(items_of(shared, range(6), "depth/gone"), plan, steps=Steps(predict=ray_nodes.fail_always)))


def test_a_store_that_refuses_is_an_error_of_its_own_kind(engine: Any, shared: Store, plan: Plan) -> None:
    shared.write("in-the-way", b"a file")
    with pytest.raises(StoreError, match="in-the-way is a file, not a folder"):
        list(engine.run(items_of(shared, range(3), "in-the-way"), plan))


def test_an_actor_that_is_killed_costs_no_image_and_no_half_written_file(engine: Any, shared: Store, plan: Plan) -> None:
    items = items_of(shared, range(30), "depth/killed")
    run = engine.run(iter(items), plan)
    ended = [next(run)]
    while not (at_work := [member for member in engine.pool.ready if member.blocks]):  # both may have ended what they had
        ended.append(next(run))
    os.kill(at_work[0].loaded.process, signal.SIGKILL)
    ended += run
    assert sorted(item.source for item, _ in ended) == sorted(item.source for item in items)
    assert {outcome.status for _, outcome in ended} == {"succeeded"}
    assert complete(shared, items)
    assert nothing_half_written(shared, "depth/killed")


def test_an_image_that_kills_actor_after_actor_fails_in_the_end_and_alone(engine: Any, shared: Store, plan: Plan) -> None:
    items = items_of(shared, range(8), "depth/deadly", {5: "deadly"})
    engine.settings = engine.settings.model_copy(update={"max_attempts": 1})
    ended = {item.name: outcome for item, outcome in engine.run(items, plan, steps=Steps(prepare=ray_nodes.kill_at))}
    assert {name: outcome.error_kind for name, outcome in ended.items()} == {**dict.fromkeys("0123467"), "deadly": "worker_lost"}
    assert ended["deadly"].attempts == 1


def test_a_node_that_joins_takes_part_and_one_that_is_lost_costs_no_image(
    cluster: Any, engine: Any, shared: Store, plan: Plan
) -> None:
    third = cluster.add_node(**ray_nodes.NODE)
    eventually(lambda: engine.pool.ended(0.1) or len(engine.pool.ready) == 3)
    items = items_of(shared, range(40), "depth/lost", dict.fromkeys(range(40), third.node_id))
    run = engine.run(iter(items), plan, steps=Steps(prepare=ray_nodes.wait_at))  # or its blocks might end before it is lost
    ended = [next(run)]
    while not any(member.blocks and member.loaded.node_id == third.node_id for member in engine.pool.ready):
        ended.append(next(run))
    cluster.remove_node(third, allow_graceful=False)
    ended += run
    assert sorted(item.source for item, _ in ended) == sorted(item.source for item in items)
    assert complete(shared, items)
    assert nothing_half_written(shared, "depth/lost")
    assert len(engine.pool.ready) == 2


# -- engines of their own: the shared one, which comes before in this file, makes room for them -------------------------------


@pytest.fixture
def alone(engine: Any, on_ray: Settings) -> Settings:
    """One actor, in the place of those of the shared engine: no test after these needs it, or it would start them all again."""
    engine.pool.close()
    return on_ray.model_copy(update={"ray_actors": 1})


def test_a_closed_run_leaves_no_work_and_a_closed_engine_no_actor(
    alone: Settings, shared: Store, checkpoint: checkpoints.Checkpoint, plan: Plan
) -> None:
    with choose.open_engine(checkpoint, store=shared, settings=alone) as other:
        run = other.run(items_of(shared, range(40), "depth/closed"), plan)
        next(run)
        processes = [member.loaded.process for member in other.pool.ready]
        run.close()
        done = sorted(shared.keys("depth/closed"))
        assert nothing_half_written(shared, "depth/closed")
        assert not any(member.blocks for member in other.pool.members)
    eventually(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))
    assert sorted(shared.keys("depth/closed")) == done
    assert len(done) < 40


def test_an_error_in_the_driver_leaves_no_actor(
    alone: Settings, shared: Store, checkpoint: checkpoints.Checkpoint, plan: Plan
) -> None:
    processes: list[int] = []

    def interrupted() -> None:
        with choose.open_engine(checkpoint, store=shared, settings=alone) as other:
            for _ in other.run(items_of(shared, range(40), "depth/interrupted"), plan):
                processes.extend(member.loaded.process for member in other.pool.ready)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert processes
    eventually(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))
    assert nothing_half_written(shared, "depth/interrupted")


def test_an_actor_that_has_a_place_may_take_its_time_to_load_the_network(engine: Any, alone: Settings) -> None:
    setup, shape = engine.pool._setup, replace(engine.pool._shape, actors=1)
    pool = Pool(setup, shape, wait_seconds=0.0)
    try:
        pool.fill()
        ray_cluster.package().get(pool.members[0].placed)
        pool.check()
        assert not pool.ready  # nobody has asked it yet
        pool.wait_for_one()
    finally:
        pool.close()


def test_other_weights_on_a_node_are_refused(alone: Settings, shared: Store, checkpoint: checkpoints.Checkpoint) -> None:
    with (
        pytest.raises(checkpoints.ModelUnavailableError, match=r"are revision .* where the run began 0123"),
        choose.open_engine(replace(checkpoint, revision="0123"), store=shared, settings=alone),
    ):
        pass


def test_the_machine_that_drives_needs_no_device_and_is_not_asked_for_one(
    alone: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo())
    settings = {"DEPTH_ENGINE": "ray", "DEPTH_RAY_ADDRESS": alone.ray_address, "DEPTH_DATA": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def asked(*args: Any) -> None:
        raise AssertionError("this process has no use for a device")

    for name in ("choose_device", "devices", "load"):
        monkeypatch.setattr(predictor, name, asked)  # here; actors are other processes

    def run(*arguments: str) -> Result:
        done = CliRunner().invoke(commands.app, [*arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    for device, status in (("cpu", 0), ("cuda", 2)):
        monkeypatch.setenv("DEPTH_DEVICE", device)
        done = run("map", str(tmp_path / "photo.jpg"), "--out", str(tmp_path / device))
        assert done.exit_code == status, done.output
    assert "no node of the Ray cluster has one" in done.stderr
    assert (tmp_path / "cpu" / "photo.depth.png").is_file()
    assert "not needed here: work goes to DEPTH_ENGINE=ray" in run("doctor").stdout


def test_decoding_apart_gives_the_same_files(
    alone: Settings, shared: Store, on_ray: Settings, checkpoint: checkpoints.Checkpoint, plan: Plan
) -> None:
    here, apart = items_of(shared, range(5), "depth/together"), items_of(shared, range(5), "depth/apart")
    apart.append(Item("bad", lambda: b"no image", "depth/bad", "bad.jpg"))
    eventually(lambda: len(ray_cluster.nodes()) == 2)  # the one that was lost is known to be
    with choose.open_engine(checkpoint, store=shared, settings=on_ray.model_copy(update={"ray_decode": "apart"})) as other:
        assert len(other.pool.members) == 1  # of two CPUs one is left for decoding
        ended = {item.source: outcome.error_kind for item, outcome in other.run(apart, plan)}
        list(other.run(here, plan, steps=Steps(prepare=ray_nodes.prepare)))
    assert ended == dict.fromkeys((item.source for item in here), None) | {"bad": "not_an_image"}
    for one, other_one in zip(here, apart, strict=False):
        assert shared.read(f"{one.folder}/depth.png") == shared.read(f"{other_one.folder}/depth.png")


def test_actors_of_one_machine_fetch_weights_once_between_them(
    alone: Settings, shared: Store, on_ray: Settings, plan: Plan, s3_endpoint: str, tmp_path: Path
) -> None:
    name, spec = servers.bucket(s3_endpoint), catalog.BY_KEY["tiny"]
    options = {"key": "k", "secret": "s", "endpoint_url": s3_endpoint}
    kept = Store(f"s3://{name}/weights", options)
    for file in small_network.write(tmp_path / "made").iterdir():
        kept.write(file.name, file.read_bytes())

    def wait(kind: str, path: str) -> None:
        if kind == "GET" and lists:  # the first actor gets no file before the second one has found that there are none
            eventually(lambda: requests["LIST"] >= 3 * lists[0])

    lists: list[int] = []
    with servers.counted_requests(name, before=wait) as requests:
        driver = on_ray.model_copy(
            update={"checkpoints": {"tiny": kept.url("")}, "source_options": options, "checkpoint_cache": tmp_path / "driver"}
        )
        checkpoint = checkpoints.resolve(spec, driver)
        gets = requests["GET"]
        assert gets > 0
        lists.append(requests["LIST"])
        actors = driver.model_copy(update={"checkpoint_cache": tmp_path / "actors"})
        with choose.open_engine(checkpoint, store=shared, settings=actors) as other:
            eventually(lambda: other.pool.ended(0.1) or len(other.pool.ready) == 2)
            items = items_of(shared, range(2), "depth/weights")
            assert {outcome.checkpoint_revision for _, outcome in other.run(items, plan)} == {checkpoint.revision}
        assert requests["LIST"] == 3 * lists[0]
        assert requests["GET"] == 2 * gets


# -- what is refused ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_this_machine_is_no_store_for_other_machines(
    shared: Store, on_ray: Settings, checkpoint: checkpoints.Checkpoint, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "this_host", lambda: "laptop")
    with (
        pytest.raises(ConfigurationError, match=r"is a folder of this machine \(laptop\).*set DEPTH_STORE_URL"),
        choose.open_engine(checkpoint, store=shared, settings=on_ray),
    ):
        pass


def test_a_cluster_that_has_no_room_for_an_actor_is_an_error_that_says_what_is_missing(
    shared: Store, on_ray: Settings, checkpoint: checkpoints.Checkpoint
) -> None:
    for changes, message in (
        ({"ray_cores": 64}, r"takes 64 CPUs; its nodes are: .*1 CPUs, 0 GPUs"),
        ({"device": "cuda"}, r"DEPTH_DEVICE=cuda asks for a GPU, and no node of the Ray cluster has one; .*1 CPUs, 0 GPUs"),
        ({"ray_decode": "apart", "ray_cores": 2, "ray_actors": 4}, "and 1 CPU for decoding"),
        ({"ray_cores": 64, "ray_actors": 1, "ray_wait_seconds": 0.1}, "no actor has got a place.*takes 64 CPUs"),
    ):
        with (
            pytest.raises(ConfigurationError, match=message),
            choose.open_engine(checkpoint, store=shared, settings=on_ray.model_copy(update=changes)),
        ):
            pass


def test_what_reading_an_item_raised_reaches_the_actor_whatever_it_holds() -> None:
    class StrangeError(Exception):
        def __init__(self, code: int, why: str) -> None:
            super().__init__(why)

    def read() -> bytes:
        raise StrangeError(1, "torn")

    sent = pickle.loads(pickle.dumps(ray_items.sendable_item(Item("a", read, "depth/a"))))
    with pytest.raises(RuntimeError, match="StrangeError: torn"):
        sent.read()


def test_without_the_package_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, store: Store, settings: Settings, checkpoint: checkpoints.Checkpoint
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigurationError, match=r"pip install 'depthline\[ray\]'"),
        choose.open_engine(checkpoint, store=store, settings=settings.model_copy(update={"engine": "ray"})),
    ):
        pass


@pytest.mark.parametrize(
    ("nodes", "device", "shape"),
    [
        ([(8, 0), (8, 0)], "auto", ("cpu", 4, 0, 4)),
        ([(2, 0), (8, 0)], "auto", ("cpu", 2, 0, 5)),
        ([(0, 0), (32, 4), (16, 2)], "auto", ("cuda", 8, 1, 6)),
        ([(4, 0), (4, 4)], "auto", ("cuda", 1, 1, 4)),
        ([(16, 2)], "cpu", ("cpu", 4, 0, 4)),
        ([(8, 0)], "openvino:GPU.1", ("openvino:GPU.1", 4, 0, 2)),
    ],
)
def test_actors_are_cut_to_the_nodes(nodes: list[tuple[int, int]], device: str, shape: tuple[Any, ...]) -> None:
    there = [Node(str(n), f"host{n}", {"CPU": cores, "GPU": gpus}) for n, (cores, gpus) in enumerate(nodes)]
    found = ray_cluster.shape(Settings(device=device), there)
    assert (found.device, found.cores, found.gpus, found.actors) == shape


# -- one actor by itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def actor(store: Store, settings: Settings, checkpoint: checkpoints.Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Actor:
    monkeypatch.setattr(ray_actor, "_node_id", lambda: "node")
    actor = Actor(Setup(settings, store, checkpoint, cores=1, share=1))
    assert actor.load().error is None
    return actor


@pytest.mark.parametrize("redo", [False, True])
def test_a_block_that_is_tried_again_costs_nothing_for_what_is_complete(
    redo: bool, actor: Actor, store: Store, plan: Plan
) -> None:
    items = items_of(store, range(3), "depth/again")
    job = Job(1, replace(plan, again=redo), Steps(), alone=False)
    first = actor.run(job, items, again=False).outcomes
    store.delete(f"{items[1].folder}/depth.json")
    store.delete(f"{items[2].folder}/depth.png")
    second = actor.run(job, items, again=True).outcomes
    same = [second[item.source].finished_at == first[item.source].finished_at for item in items]
    assert same == ([False] * 3 if redo else [True, False, False])
    assert complete(store, items)


def test_a_run_that_makes_everything_again_says_so_to_the_actors(profile: Profile, store: Store, checkpoint: Any) -> None:
    for redo in (Redo(), Redo(everything=True)):
        context = chunk.ChunkContext.read(profile, CHUNK, checkpoint=checkpoint, store=store, redo=redo)
        assert context.plan(None).again == redo.everything
    assert read_journal(store, profile.name, CHUNK) == {}
