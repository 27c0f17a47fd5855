"""jobs.recommend on real Ray: the table is what a loop would write, whole or not at all."""

import json
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import evaluate, recommend
from motif import cli, schemas
from motif.artefacts import lock
from motif.errors import InputError, OutputError, OutputHeld
from motif.on_ray import recommend as on_ray
from motif.recommend import scorers
from motif.table import LIVE, CreatorTable
from motif.table.layout import TableUri
from motif.table.recommendations import RecommendationTable
from motif.table.versions import list_versions, rollback
from tests.synthetic import make_space, publish, rows_of, themed, write_checkpoint

DIM, CREATORS, KNOWN, BRANDS = 8, 60, 40, 30


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A table of creators, and brands that have worked with some of them."""
    folder = tmp_path_factory.mktemp("recommend")
    space = make_space(DIM)
    model = write_checkpoint(folder / "same", space)
    publish(str(folder / "db" / "creators.lance"), rows_of(*themed(CREATORS, 3, DIM)), model)
    rng = np.random.default_rng(0)
    pairs = [
        (f"brand-{b:02d}", f"creator-{c:03d}")
        for b in range(BRANDS)
        for c in rng.choice(KNOWN, 5, replace=False)
    ]
    pairs += [("brand-x", "nobody"), pairs[0]]
    write(folder / "interactions.parquet", pairs)
    return folder


def write(path: Path, pairs: list[tuple[str, str]]) -> str:
    brands, creators = zip(*pairs, strict=True)
    pq.write_table(pa.table({"brand_id": brands, "creator_id": creators}), path)
    return str(path)


def run(place: Path, output: Path, **flags) -> dict:
    flags = {"interactions": str(place / "interactions.parquet"), "k": 7, **flags}
    return recommend.main(
        recommend.Config(table=str(place / "db" / "creators.lance"), output=str(output), **flags)
    )


def rows_at(output: Path) -> pa.Table:
    return lance.dataset(str(output), version=LIVE).to_table()


@pytest.fixture(scope="module")
def written(place, ray_local, tmp_path_factory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("out") / "for_brands.lance"
    return output, run(place, output)


def test_the_table_is_what_a_loop_would_write(place, written):
    output, record = written
    rows = rows_at(output)
    assert rows.schema.remove_metadata().equals(schemas.RECOMMENDATIONS)
    creators = CreatorTable.open(str(place / "db" / "creators.lance"))
    table = creators.columns(["creator_id", "same"]).sort_by("creator_id")
    ids, content = table["creator_id"].to_pylist(), schemas.matrix(table["same"])
    pairs = pq.read_table(place / "interactions.parquet").to_pylist()
    known = {pair["creator_id"] for pair in pairs}
    cold = [i for i, creator in enumerate(ids) if creator not in known]
    counts = record["counts"]
    assert (counts["candidates"], counts["rows"]) == (len(cold), rows.num_rows)
    assert rows.num_rows == (BRANDS + 1) * 7
    for brand in ("brand-00", "brand-17"):
        weights: dict[str, int] = {}
        for pair in pairs:
            if pair["brand_id"] == brand:
                weights[pair["creator_id"]] = weights.get(pair["creator_id"], 0) + 1
        own = [ids.index(creator) for creator in weights]
        amounts = np.array(list(weights.values()), float)
        near = np.exp((content[cold] @ content[own].T) / scorers.TEMPERATURE)
        scores = scorers.TEMPERATURE * np.log(near @ amounts / amounts.sum())
        order = np.argsort(-scores)[:7]
        found = [row for row in rows.to_pylist() if row["brand_id"] == brand]
        assert [row["rank"] for row in found] == list(range(1, 8))
        assert [row["creator_id"] for row in found] == [ids[cold[i]] for i in order]
        np.testing.assert_allclose([row["score"] for row in found], scores[order], atol=1e-5)
        for row in found:
            here = content[ids.index(row["creator_id"])]
            nearest = sorted(own, key=lambda i: -float(content[i] @ here))[:3]
            assert row["because"] == [ids[i] for i in nearest]
            assert row["method"] == "knn"


def test_a_brand_without_a_known_creator_gets_popular_ones_and_is_told(written):
    rows = [row for row in rows_at(written[0]).to_pylist() if row["brand_id"] == "brand-x"]
    assert {row["method"] for row in rows} == {"popular"}
    assert all(row["because"] == [] for row in rows)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert written[1]["counts"]["brands_without_creators"] == 1
    assert written[1]["counts"]["unmatched_creators"] == 1


def test_readers(written, capsys, monkeypatch):
    output, record = written
    table = RecommendationTable.open(str(output))
    assert table.metadata["run_id"] == record["run_id"]
    found = table.for_brand("brand-03", 4)
    assert found.column_names == ["creator_id", "score", "method", "because"]
    command = ["motif", "recommend", "--table", str(output), "--brand", "brand-03", "-k", "4"]
    monkeypatch.setattr("sys.argv", [*command, "--json"])
    cli.main()
    assert json.loads(capsys.readouterr().out) == found.to_pylist()
    monkeypatch.setattr("sys.argv", command)
    cli.main()
    assert found["creator_id"][0].as_py() in capsys.readouterr().out.splitlines()[1]
    with pytest.raises(InputError, match="has no brand 'brand-99'"):
        table.for_brand("brand-99")
    assert "brand_id_idx" in {i.name for i in lance.dataset(str(output)).describe_indices()}


def test_tables_of_other_kinds_are_left_alone(place, written):
    creators = place / "db" / "creators.lance"
    before = lance.dataset(str(creators)).version
    with pytest.raises(OutputError, match=r"--output .* that holds no recommendations"):
        run(place, creators)
    assert lance.dataset(str(creators)).version == before
    with pytest.raises(InputError, match="not one of recommendations"):
        RecommendationTable.open(str(creators))
    with pytest.raises(InputError, match="not one of CREATORS"):
        CreatorTable.open(str(written[0]))


def test_a_second_run_and_back(place, ray_local, tmp_path):
    output = tmp_path / "r.lance"
    first = run(place, output, method="popular")
    second = run(place, output, candidates="unseen", neighbours=2)
    rows = rows_at(output).to_pylist()
    known = {(p["brand_id"], p["creator_id"]) for p in _pairs(place)}
    assert not known & {(row["brand_id"], row["creator_id"]) for row in rows}
    assert {row["creator_id"] for row in rows} & {creator for _, creator in known}
    assert second["table_version"] > first["table_version"]
    uri = TableUri.parse(str(output))
    assert [v.published for v in list_versions(uri) if v.run_id == first["run_id"]].count(True) == 1
    rollback(uri, first["table_version"])
    assert RecommendationTable.open(str(output)).metadata["method"] == "popular"
    with lock.hold(uri.beside(), run_id="tonight"), pytest.raises(OutputHeld, match="tonight"):
        run(place, output)


def _pairs(place: Path) -> list[dict]:
    return pq.read_table(place / "interactions.parquet").to_pylist()


def test_the_network_goes_on_from_what_a_run_that_was_cut_off_had_learned(
    place, ray_local, tmp_path, monkeypatch
):
    output = tmp_path / "r.lance"
    flags = {"method": "cb2cf", "factors": 8, "iterations": 20}
    with monkeypatch.context() as patch:
        patch.setattr(on_ray, "predict", _dies)
        with pytest.raises(ZeroDivisionError):
            run(place, output, **flags)
    assert not output.exists()
    with monkeypatch.context() as patch:
        patch.setattr(on_ray, "fit_collaborative", _dies)  # nobody learns them again
        record = run(place, output, **flags)
        with pytest.raises(ZeroDivisionError):
            run(place, output, **{**flags, "factors": 9})
    rows = rows_at(output)
    assert record["counts"]["rows"] == rows.num_rows == (BRANDS + 1) * 7
    assert set(rows["method"].to_pylist()) == {"cb2cf", "popular"}
    assert not (tmp_path / "r.motif" / "staging").exists()


def _dies(*arguments):
    raise ZeroDivisionError


def test_a_version_that_is_not_as_planned_is_not_live(place, ray_local, tmp_path, monkeypatch):
    output = tmp_path / "r.lance"
    run(place, output)
    before = rows_at(output)

    def loses_some(work, check):
        return []

    monkeypatch.setattr(on_ray, "write_all", loses_some)
    with pytest.raises(Exception, match="planned"):
        run(place, output)
    assert rows_at(output).equals(before)


@pytest.mark.parametrize(
    ("pairs", "flags", "told"),
    [
        ([("a", "nobody"), ("b", "no one")], {}, "none of its 2 creators is in --table"),
        ([("a", f"creator-{i:03d}") for i in range(CREATORS)], {}, "--candidates unseen"),
        ([("a", "creator-001")], {"k": 0}, "--k 0: expected 1 to 10000"),
        ([("a", "creator-001")], {"temperature": float("nan")}, "--temperature nan"),
    ],
)
def test_bad_input_is_one_line(place, tmp_path, pairs, flags, told):
    uri = write(tmp_path / "i.parquet", pairs)
    with pytest.raises(InputError, match=told) as error:
        run(place, tmp_path / "r.lance", interactions=uri, **flags)
    assert "\n" not in str(error.value)


def test_a_dry_run_writes_nothing(place, tmp_path, capsys):
    plan = run(place, tmp_path / "r.lance", dry_run=True)
    assert (plan["brands"], plan["rows_at_most"]) == (BRANDS + 1, (BRANDS + 1) * 7)
    assert list(tmp_path.iterdir()) == []
    assert "candidates" in capsys.readouterr().out


def test_it_is_evaluated_with_a_report(place, tmp_path):
    output = tmp_path / "evaluation"
    record = evaluate.main(
        evaluate.Config(
            interactions=str(place / "interactions.parquet"),
            table=str(place / "db" / "creators.lance"),
            output=str(output),
        )
    )
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["verdict"] == record["verdict"]
    assert metrics["counts"]["hidden_creators"] == record["counts"]["hidden_creators"] > 2
    methods = {(one["method"], one["content"]) for one in metrics["methods"]}
    kinds = ("same", "mean", "whitened")
    wanted = {(m, c) for m in ("KNN", "CB2CF", "content mean") for c in kinds}
    assert methods == wanted | {("chance", None), ("popular", None)}
    for one in metrics["methods"]:
        for measure in ("hit_rate", "recall", "ndcg"):
            values = [one[measure][str(k)] for k in (1, 2, 5, 10, 20, 50, 100)]
            assert all(0 <= v["low"] <= v["mean"] <= v["high"] <= 1 for v in values)
        means = [one["recall"][str(k)]["mean"] for k in (1, 2, 5, 10, 20)]
        assert means == sorted(means)
    page = (output / "report.html").read_text()
    assert record["verdict"][:40] in page
    assert page.count("<svg") == 3


@pytest.mark.parametrize(
    "flags", [{}, {"embeddings": "e"}, {"interactions": "i"}, {"embeddings": "e", "table": "t"}]
)
def test_half_an_evaluation_is_refused(flags, tmp_path):
    with pytest.raises(InputError, match="--interactions and --table"):
        evaluate.main(evaluate.Config(output=str(tmp_path / "o"), **flags))
