"""CIFAR-10 from an archive in the official format: what arrives, what is refused, and that nothing in it is run."""

import hashlib
import http.server
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from formats import Payload, cifar_batches, python2_pickle, random_images, tar_gz
from messages import naming

from ddpm_lab.data import cifar10, published
from ddpm_lab.data.cifar10 import ARCHIVE, BATCHES, CIFAR10, FOLDER
from ddpm_lab.data.memory import seeded_split
from ddpm_lab.errors import UserError

N_TRAIN, N_TEST = 50, 20
TRAIN, TEST = random_images(N_TRAIN, 3, 32, seed=1), random_images(N_TEST, 3, 32, seed=2)
TRAIN_LABELS, TEST_LABELS = np.arange(N_TRAIN) % 10, np.arange(N_TEST)[::-1] % 10


def batches() -> dict[str, bytes]:
    return cifar_batches(TRAIN, TRAIN_LABELS, list(BATCHES["train"])) | cifar_batches(TEST, TEST_LABELS, ["test_batch"])


def publish(monkeypatch, root: Path, content: dict[str, bytes], url: str = "file:///nowhere") -> Path:
    """Write the archive and make its checksums the published ones."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / ARCHIVE.name
    tar_gz(path, {f"{FOLDER}/{name}": batch for name, batch in content.items()})
    checksum = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    monkeypatch.setattr(cifar10, "ARCHIVE", ARCHIVE._replace(checksum=checksum, urls=(url,)))
    for part in BATCHES.values():
        for name in part.keys() & content.keys():
            monkeypatch.setitem(part, name, f"md5:{hashlib.md5(content[name]).hexdigest()}")
    return path


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(published, "urlopen", no_network)
    publish(monkeypatch, tmp_path / "cifar10", batches())
    return tmp_path / "cifar10"


def no_network(url: str, timeout: float) -> None:
    raise OSError("Name or service not known")


def loaded(root: Path, **arguments) -> CIFAR10:
    data = CIFAR10(str(root), **arguments)
    data.setup()
    return data


def refused(root: Path, *parts: str, **arguments) -> None:
    """UserError that names all the parts."""
    with pytest.raises(UserError, match=naming(*parts)):
        loaded(root, **arguments)


def check_arrays(data: CIFAR10) -> None:
    assert np.array_equal(data.train_images, TRAIN)
    assert np.array_equal(data.val_images, TEST)
    assert np.array_equal(data.train_labels, TRAIN_LABELS)
    assert np.array_equal(data.val_labels, TEST_LABELS)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.dtype == torch.int64
    assert (data.shape, data.levels, data.classes, data.flip) == ((3, 32, 32), 256, 10, True)


def test_pixels_and_labels_arrive_in_order(root):
    check_arrays(loaded(root))


def test_the_extracted_folder_does_as_well(root):
    (root / ARCHIVE.name).unlink()
    (root / FOLDER).mkdir()
    for name, content in batches().items():
        (root / FOLDER / name).write_bytes(content)
    check_arrays(loaded(root))


def test_the_first_row_of_red_is_the_first_32_bytes(tmp_path, monkeypatch):
    """As the archive's own page says: 1024 red, then green, then blue, each row by row."""
    monkeypatch.setattr("test_cifar10.TRAIN", np.arange(N_TRAIN * 3072).reshape(-1, 3, 32, 32).astype(np.uint8))
    publish(monkeypatch, tmp_path, batches())
    image = loaded(tmp_path).train_images[0]
    assert image[0, 0].tolist() == list(range(32))
    assert image[0, :8, 0].tolist() == [0, 32, 64, 96, 128, 160, 192, 224]
    assert image.flatten().tolist() == [i % 256 for i in range(3072)]


def test_later_runs_neither_unpickle_nor_need_the_archive(root, monkeypatch):
    first = loaded(root)
    (root / ARCHIVE.name).unlink()

    def explode(content: bytes) -> None:
        raise AssertionError("unpickled again")

    monkeypatch.setattr(cifar10, "unpickled", explode)
    again = loaded(root, download=False)
    check_arrays(again)
    assert again.state_dict() == first.state_dict()


def test_a_split_of_the_training_images(root):
    data = loaded(root, validation="split", val_fraction=0.2, split_seed=3)
    train, held = seeded_split(N_TRAIN, 0.2, 3)
    assert np.array_equal(data.train_images, TRAIN[train])
    assert np.array_equal(data.val_images, TRAIN[held])
    assert np.array_equal(data.train_labels, TRAIN_LABELS[train])
    assert np.array_equal(data.val_labels, TRAIN_LABELS[held])
    whole, other = loaded(root), loaded(root, validation="split", val_fraction=0.2, split_seed=4)
    assert len({d.state_dict()["sha256"] for d in (whole, data, other)}) == 3
    assert loaded(root, split_seed=4).state_dict() == whole.state_dict()  # of no effect where nothing is split
    with pytest.raises(UserError, match="not the data that the checkpoint was trained on"):
        data.load_state_dict(whole.state_dict())


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:500] + b"\x00" + b[501:], lambda b: b""])
def test_a_damaged_archive_is_refused_before_it_is_opened(damage, root, monkeypatch):
    path = root / ARCHIVE.name
    path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setattr(cifar10, "unpickled", None)
    monkeypatch.setattr(cifar10.tarfile, "open", None)
    refused(root, str(path), "checksum", "sha256:")
    assert [p.name for p in root.iterdir()] == [ARCHIVE.name]


def test_a_damaged_or_missing_batch_in_the_folder(root):
    (root / FOLDER).mkdir()
    for name, content in batches().items():
        (root / FOLDER / name).write_bytes(content)
    (root / FOLDER / "data_batch_3").write_bytes(batches()["data_batch_3"][:-1])
    refused(root, f"{root / FOLDER}/data_batch_3", "checksum", "md5:")
    (root / FOLDER / "data_batch_3").unlink()
    refused(root, str(root / FOLDER), "data_batch_3 is missing")


def test_an_archive_without_a_batch(tmp_path, monkeypatch):
    content = batches()
    del content["test_batch"]
    path = publish(monkeypatch, tmp_path, content)
    refused(tmp_path, str(path), "test_batch is missing")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_payload_is_refused_and_not_run_even_with_the_right_checksum(protocol, tmp_path, monkeypatch):
    trap = tmp_path / "trap"
    publish(monkeypatch, tmp_path, batches() | {"data_batch_2": pickle.dumps(Payload(trap), protocol)})
    refused(tmp_path, "data_batch_2: not a batch of CIFAR-10 (it names ")
    assert not trap.exists()
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize("callable_", ["builtins\neval", "os\nsystem", "numpy\nload", "numpy.core.multiarray\nfromfile"])
def test_nothing_but_arrays_can_be_named(callable_):
    with pytest.raises(pickle.UnpicklingError, match="which is not data"):
        cifar10.unpickled(f"c{callable_}\n(S'1'\ntR.".encode())


@pytest.mark.parametrize(
    "batch",
    [
        {"data": TRAIN[:10].reshape(10, 3072), "labels": [0] * 9},
        {"data": TRAIN[:10].reshape(10, 3072), "labels": [10] * 10},
        {"data": TRAIN[:10].reshape(10, 3072).astype(np.int16), "labels": [0] * 10},
        {"labels": [0] * 10},
        [1, 2],
    ],
)
def test_other_content_with_the_right_checksum(batch, tmp_path, monkeypatch):
    publish(monkeypatch, tmp_path, batches() | {"data_batch_1": python2_pickle(batch)})
    refused(tmp_path, "data_batch_1: not a batch of CIFAR-10 (")


def test_without_network_it_says_what_to_put_where(root):
    path = root / ARCHIVE.name
    path.unlink()
    refused(root, f"data.root={root}", "file:///nowhere: Name or service not known", str(path))
    refused(root, "cifar-10-python.tar.gz", "data.download=false", download=False)
    assert list(root.iterdir()) == []


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/{ARCHIVE.name}"
        running.shutdown()


def test_it_is_downloaded_checked_and_kept(server, tmp_path, monkeypatch):
    folder, url = server
    publish(monkeypatch, folder, batches(), url)
    check_arrays(loaded(tmp_path / "new" / "cifar10"))
    assert (tmp_path / "new/cifar10" / ARCHIVE.name).read_bytes() == (folder / ARCHIVE.name).read_bytes()
    assert not list((tmp_path / "new/cifar10").glob("*.tmp.*"))


def test_what_arrives_damaged_or_not_at_all_leaves_nothing(server, tmp_path, monkeypatch):
    folder, url = server
    path = publish(monkeypatch, folder, batches(), url)
    path.write_bytes(path.read_bytes()[:-7])
    refused(tmp_path / "new" / "cifar10", f"{url}: ", "sha256")
    path.unlink()
    refused(tmp_path / "new" / "cifar10", f"({url}: ")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    refused(tmp_path / "mine", f"({url}: ")
    assert list((tmp_path / "mine").iterdir()) == []


def test_altered_arrays_are_refused(root):
    loaded(root)
    path = root / "cifar10_test_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(root, str(path), "SHA-256", "cifar10.json")
    loaded(root, validation="split")  # does not need the test images
    (root / "cifar10.json").write_text("{")
    refused(root, str(root / "cifar10.json"), "record")
    (root / "cifar10.json").unlink()
    check_arrays(loaded(root))


def test_an_interrupted_conversion_is_done_again(root, monkeypatch):
    save = np.save

    def full(file, array, **keywords) -> None:
        if len(list(root.glob("*.npy"))) == 2:
            raise OSError(28, "No space left on device")
        save(file, array, **keywords)

    monkeypatch.setattr(np, "save", full)
    refused(root, str(root), "cifar10", "No space left on device")
    assert not list(root.glob("*.tmp.*"))
    assert not (root / "cifar10.json").exists()
    monkeypatch.undo()
    publish(monkeypatch, root, batches())
    check_arrays(loaded(root))
