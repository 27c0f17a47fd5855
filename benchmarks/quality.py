"""What SAME is worth beside every cheap alternative, on creators that it did not learn from.

    .venv/bin/python -m benchmarks.quality --artefacts NAME=EMBEDDINGS ... [--seeds 3]
        [--inputs embedding features] [--same "" "learning_rate=1e-3;dropout=0.8" ...]

The first table is repeated two-fold cross-validation over the creators of each artefact: hit rate
at 1 of n images of a creator against n others of theirs among all creators of the other fold, ±
the standard error over creators, and in the rows with CSLS the ratio to `whitening` with CSLS, with
a 95 % interval (bootstrap over creators, paired). The second learns from one artefact and tests on
the others. The third is theme over object, where there is a column `object`, by the same folds as
the first.

`whitening` and SAME are what `train_same` would ship: a fifth of a fold's training creators is its
validation creators, which the ridge, the last step and the network itself are chosen by. The rows
`whitening, ridge R`, the same `+ emphasis` of what creators differ in (`motif.whitening`), and
`PCA-whitening, ridge R` (of all images as if one creator had made them) are fitted to all of a
fold's training creators, at full length.
"""

import argparse
import ast
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from motif import schemas
from motif.artefacts import partitions
from motif.artefacts.embeddings import Embeddings
from motif.artefacts.training_set import Counts, TrainingSet
from motif.evaluation import similarity, theme_over_object
from motif.evaluation.sample import HASHES, OBJECT
from motif.model import WhitenedEmbedding, as_inputs, embed
from motif.pictures import pictures_of, repeats
from motif.training.fit import plain_mean, train
from motif.training.hyperparameters import Hyperparameters
from motif.triplets import offsets_of
from motif.whitening import EMPHASIS, RIDGES, fit_moments, moments

log = logging.getLogger("benchmarks.quality")

SIZES = (1, 3, 5, 10)
VALIDATION_FRACTION = 0.2
MEAN, WHITENING = "mean", "whitening"
RESAMPLES = 2000
TRANSFER_SIZES = (1, 5)

Hits = dict[tuple[str, bool, int], Float[np.ndarray, " creators"]]
"""(vectors, CSLS, images a side) -> share of each creator's draws that found the twin, NaN where
it was not tried."""


@dataclass(frozen=True)
class Pictures:
    """Different images of creators with two or more, grouped by creator."""

    name: str
    inputs: dict[str, Float[np.ndarray, "images _"]]
    """Column -> unit rows."""
    creator: Int[np.ndarray, " images"]
    picture: Int[np.ndarray, " images"]
    """Equal numbers are copies."""
    shared: Bool[np.ndarray, " images"]
    """Another creator has the same picture: learned from by nobody, as in train_same."""
    objects: Int[np.ndarray, " images"] | None

    @property
    def creators(self) -> int:
        """How many there are."""
        return int(self.creator[-1]) + 1

    def rows_of(self, creators: Int[np.ndarray, " chosen"]) -> Int[np.ndarray, " rows"]:
        """Return the images of some creators, still grouped."""
        return np.flatnonzero(np.isin(self.creator, creators))

    def to_learn_from(self, creators: Int[np.ndarray, " chosen"]) -> Int[np.ndarray, " rows"]:
        """Return the images of some creators that no other creator has, two or more of each."""
        rows = self.rows_of(creators)
        rows = rows[~self.shared[rows]]
        counts = np.bincount(self.creator[rows], minlength=self.creators)
        return rows[counts[self.creator[rows]] >= 2]


def read(name: str, uri: str, columns: Sequence[str]) -> Pictures:
    """Read EMBEDDINGS, without second copies of a picture at one creator."""
    embeddings = Embeddings.open(uri)
    wanted = [column for column in columns if column in embeddings.schema.names]
    carried = [OBJECT] if OBJECT in embeddings.schema.names else []
    table = embeddings.read(["creator_id", "image_id", *HASHES, *wanted, *carried])
    table = table.sort_by([("creator_id", "ascending"), ("image_id", "ascending")])
    creator = np.unique(table["creator_id"].to_pylist(), return_inverse=True)[1]
    picture = pictures_of(*(partitions.hashes(table[column]) for column in HASHES))
    copies, shared = repeats(creator, picture)
    counts = np.bincount(creator[~copies], minlength=int(creator.max()) + 1)
    keep = ~copies & (counts[creator] >= 2)
    objects = None
    if carried:
        names = np.array([str(value or "") for value in table[OBJECT].to_pylist()])
        objects = np.where(names == "", -1, np.unique(names, return_inverse=True)[1])[keep]
    return Pictures(
        name=name,
        inputs={
            column: as_inputs(torch.tensor(schemas.matrix(table[column])[keep])).numpy()
            for column in wanted
        },
        creator=np.unique(creator[keep], return_inverse=True)[1],
        picture=picture[keep],
        shared=shared[keep],
        objects=objects,
    )


# -- ways to make vectors -----------------------------------------------------------------------


@dataclass
class Maps:
    """Fits every kind of vectors to some creators of one artefact, on one column."""

    variants: Mapping[str, Hyperparameters]
    ridges: Sequence[float]
    kept: dict[str, list[str]] = field(default_factory=dict)
    """Kind -> the architecture that training chose, fit by fit."""

    def fit(
        self, pictures: Pictures, column: str, training: Int[np.ndarray, " chosen"], seed: int
    ) -> dict[str, nn.Module]:
        """Return kind of vectors -> map of unit rows."""
        inputs = pictures.inputs[column]
        rows = pictures.to_learn_from(training)
        images = torch.from_numpy(inputs[rows])
        creator = torch.from_numpy(np.unique(pictures.creator[rows], return_inverse=True)[1])
        within, total = moments(images, creator), moments(images, torch.zeros_like(creator))
        maps: dict[str, nn.Module] = {MEAN: plain_mean(inputs.shape[1])}
        closed_forms = (
            ("PCA-whitening", total, 0.0),
            (WHITENING, within, 0.0),
            (f"{WHITENING} + emphasis", within, EMPHASIS),
        )
        for kind, found, emphasis in closed_forms:
            for ridge in self.ridges:
                map_ = fit_moments(found, ridge=ridge, emphasis=emphasis)
                maps[f"{kind}, ridge {ridge:g}"] = WhitenedEmbedding(map_)
        data = training_set(pictures, column, training, seed)
        for name, hyper in self.variants.items():
            maps[name], architecture = same(data, replace(hyper, seed=seed))
            self.kept.setdefault(f"{pictures.name}, {column}: {name}", []).append(architecture)
        return maps


def same(data: TrainingSet, hyper: Hyperparameters) -> tuple[nn.Module, str]:
    """Train; return the model that train_same would ship, and its architecture."""
    outcome = train(data, hyper)
    assert outcome is not None  # only workers beside the first get none
    return outcome.model, outcome.architecture


def training_set(
    pictures: Pictures, column: str, training: Int[np.ndarray, " chosen"], seed: int
) -> TrainingSet:
    """Hold out some of the training creators for validation."""
    order = np.random.default_rng(seed).permutation(training)
    held_out = round(VALIDATION_FRACTION * len(order))
    parts = [pictures.to_learn_from(chosen) for chosen in (order[held_out:], order[:held_out])]
    (rows, offsets), (validation, validation_offsets) = (
        (pictures.inputs[column][part], offsets_of(pictures.creator[part])) for part in parts
    )
    return TrainingSet(
        rows=rows,
        offsets=offsets,
        validation=validation,
        validation_offsets=validation_offsets,
        counts=Counts(
            images=len(pictures.creator),
            buckets=1,
            train_creators=len(order) - held_out,
            validation_creators=held_out,
            test_creators=pictures.creators - len(order),
            copies=0,
            shared=int(pictures.shared[pictures.rows_of(training)].sum()),
            single=0,
        ),
    )


def variants_of(texts: Sequence[str]) -> dict[str, Hyperparameters]:
    """Return the kinds that are trained, by name: what differs from the defaults."""
    variants = {WHITENING: Hyperparameters(architecture="whitening")}
    for text in texts:
        told = dict(part.split("=", 1) for part in text.split(";") if part)
        values = {name.strip(): _value(value) for name, value in told.items()}
        hyper = replace(Hyperparameters(), **values)
        hyper.check()
        variants[f"SAME {text}".strip()] = hyper
    return variants


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a word, such as an architecture


# -- what is measured ---------------------------------------------------------------------------


def folds(creators: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (training, test) creators, twice, so that each is tested once."""
    halves = np.array_split(np.random.default_rng(seed).permutation(creators), 2)
    yield halves[0], halves[1]
    yield halves[1], halves[0]


def hits_of(
    outputs: Mapping[str, Float[np.ndarray, "images _"]],
    creator: Int[np.ndarray, " images"],
    *,
    sizes: Sequence[int],
    draws: int,
    seed: int,
) -> Hits:
    """Return how often each creator's twin comes first, in the same draws for all kinds."""
    offsets = offsets_of(creator)
    hits: Hits = {}
    for size in sizes:
        chosen = np.diff(offsets) >= 2 * size
        if chosen.sum() < 2:
            continue
        halves = list(similarity.draw_images(offsets, chosen, size, draws=draws, seed=seed))
        for kind, rows in outputs.items():
            for csls in (False, True):
                ranks = [similarity.ranks_of_twins(rows, half, csls=csls) for half in halves]
                hits[kind, csls, size] = np.full(len(chosen), np.nan)
                hits[kind, csls, size][chosen] = (np.stack(ranks) <= 1).mean(axis=0)
    return hits


@dataclass
class CrossValidation:
    """Results of all folds of one artefact and column."""

    hits: Hits
    """The means over seeds."""
    themes: dict[str, tuple[float, float]]
    """Kind -> theme over object and its standard error; empty without a column `object`."""


def cross_validate(
    pictures: Pictures, column: str, maps: Maps, *, seeds: int, draws: int
) -> CrossValidation:
    """Learn from one half of the creators and test on the other, both ways, for each seed."""
    by_seed: list[Hits] = []
    themes: dict[str, list[theme_over_object.ThemeScore]] = {}
    for seed in range(seeds):
        found: Hits = {}
        for fold, (training, test) in enumerate(folds(pictures.creators, seed)):
            log.info("%s, %s: seed %d, fold %d", pictures.name, column, seed, fold)
            rows = pictures.rows_of(test)
            outputs = apply(
                maps.fit(pictures, column, training, seed), pictures.inputs[column][rows]
            )
            tested = hits_of(
                outputs, pictures.creator[rows], sizes=SIZES, draws=draws, seed=2 * seed + fold
            )
            for key, values in tested.items():
                everyone = found.setdefault(key, np.full(pictures.creators, np.nan))
                everyone[np.sort(test)] = values
            if pictures.objects is not None:
                theme = theme_over_object.measure(
                    outputs,
                    pictures.creator[rows],
                    pictures.objects[rows],
                    pictures.picture[rows],
                    seed=seed,
                )
                for kind, score in theme.scores.items():
                    themes.setdefault(kind, []).append(score)
        by_seed.append(found)
    return CrossValidation(
        {key: np.mean([found[key] for found in by_seed], axis=0) for key in by_seed[0]},
        {kind: _over_folds(scores) for kind, scores in themes.items()},
    )


def _over_folds(scores: Sequence[theme_over_object.ThemeScore]) -> tuple[float, float]:
    """Return the mean rate, and its error: two folds are all creators, more seeds no new ones."""
    squares = [score.standard_error**2 for score in scores]
    mean = np.mean([score.rate for score in scores])
    return float(mean), float(np.sqrt(np.mean(squares) / 2))


def apply(
    maps: Mapping[str, nn.Module], rows: Float[np.ndarray, "images dim"]
) -> dict[str, Float[np.ndarray, "images _"]]:
    """Return each map's outputs."""
    return {kind: embed(model, torch.from_numpy(rows)).numpy() for kind, model in maps.items()}


def ratio(
    hits: Float[np.ndarray, " creators"],
    baseline: Float[np.ndarray, " creators"],
    *,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the ratio of the means, and its 95 % interval over creators, who are resampled."""
    tried = ~np.isnan(hits)
    hits, baseline = hits[tried], baseline[tried]
    drawn = np.random.default_rng(seed).integers(0, len(hits), (RESAMPLES, len(hits)))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = hits[drawn].mean(axis=1) / baseline[drawn].mean(axis=1)
        value = hits.mean() / baseline.mean()
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(value), float(low), float(high)


# -- what is printed ----------------------------------------------------------------------------


def rate_cell(hits: Hits, kind: str, csls: bool, size: int) -> str:
    """Return hit rate ± standard error, and with CSLS the ratio to the whitening."""
    if (kind, csls, size) not in hits:
        return "-"
    found = hits[kind, csls, size]
    tried = found[~np.isnan(found)]
    told = f"{tried.mean():.3f} ± {similarity.standard_error(tried):.3f}"
    if not csls or kind == WHITENING:
        return told
    value, low, high = ratio(found, hits[WHITENING, True, size])
    return f"{told} x {value:.3f} [{low:.3f}, {high:.3f}]"


def hit_rows(hits: Hits, before: Sequence[str], sizes: Sequence[int]) -> list[list[str]]:
    """Return a row for each kind of vectors, without and with CSLS."""
    return [
        [
            *before,
            kind + (" + CSLS" if csls else ""),
            *(rate_cell(hits, kind, csls, n) for n in sizes),
        ]
        for kind in dict.fromkeys(key[0] for key in hits)
        for csls in (False, True)
    ]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def transfer_rows(
    archives: Sequence[Pictures], column: str, maps: Maps, draws: int
) -> list[list[str]]:
    """Learn from all creators of one artefact, test on all of each other one."""
    rows = []
    able = [pictures for pictures in archives if column in pictures.inputs]
    for source in able:
        fitted = None
        for target in able:
            if target is source:
                continue
            log.info("%s: from %s to %s", column, source.name, target.name)
            fitted = fitted or maps.fit(source, column, np.arange(source.creators), 0)
            outputs = apply(fitted, target.inputs[column])
            hits = hits_of(outputs, target.creator, sizes=TRANSFER_SIZES, draws=draws, seed=0)
            names = (column, source.name, target.name)
            rows += [row for row in hit_rows(hits, names, TRANSFER_SIZES) if "CSLS" in row[3]]
    return rows


def main() -> None:
    """Measure everything and print Markdown."""
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    named = [text.partition("=")[::2] for text in arguments.artefacts]
    archives = [read(name, uri, arguments.inputs) for name, uri in named]
    variants = variants_of(arguments.same)
    maps = Maps(variants, arguments.ridges)
    say: Callable[[str], object] = sys.stdout.write
    rows, themes, transfer = [], [], []
    for pictures in archives:
        for column in pictures.inputs:
            found = cross_validate(
                pictures, column, maps, seeds=arguments.seeds, draws=arguments.draws
            )
            rows += hit_rows(found.hits, (pictures.name, column), SIZES)
            for kind, (rate, error) in found.themes.items():
                themes.append([pictures.name, column, kind, f"{rate:.3f} ± {error:.3f}"])
    if len(archives) > 1:
        for column in arguments.inputs:
            transfer += transfer_rows(
                archives, column, Maps(variants, arguments.ridges), arguments.draws
            )
    sizes = [f"n = {size}" for size in SIZES]
    say(markdown(["artefact", "input", "vectors", *sizes], rows))
    if transfer:
        sizes = [f"n = {size}" for size in TRANSFER_SIZES]
        say("\n" + markdown(["input", "learned from", "tested on", "vectors", *sizes], transfer))
    if themes:
        say("\n" + markdown(["artefact", "input", "vectors", "theme over object"], themes))
    say("\nWhat training chose:\n")
    for kind, architectures in maps.kept.items():
        counts = {name: architectures.count(name) for name in dict.fromkeys(architectures)}
        say(f"- {kind}: {', '.join(f'{name} {count}' for name, count in counts.items())}\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artefacts", nargs="+", required=True, metavar="NAME=URI")
    parser.add_argument("--inputs", nargs="+", default=["embedding", "features"])
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of the two folds")
    parser.add_argument("--draws", type=int, default=20, help="pairs of halves in each fold")
    parser.add_argument("--ridges", nargs="*", type=float, default=list(RIDGES))
    parser.add_argument(
        "--same",
        nargs="*",
        default=[""],
        help="variants: NAME=VALUE;NAME=VALUE of motif.training.hyperparameters, '' for defaults",
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    for text in arguments.artefacts:
        if not all(text.partition("=")[::2]):
            parser.error(f"--artefacts {text}: expected NAME=URI")
    return arguments


if __name__ == "__main__":
    main()
