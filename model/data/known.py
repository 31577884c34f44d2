"""The corpora we know by their content: names, documented splits, licences.

A corpus is recognised by its checksum and never by its file name. A renamed file therefore keeps its split and its
licence, and a changed one loses both.
"""

from dataclasses import dataclass

CC_BY_SA = "CC BY-SA 3.0, Wikipedia contributors"
ANY = "any"
ATTRIBUTION = "any, with attribution and share-alike"
RESEARCH = "research"
NON_COMMERCIAL = "non-commercial research"


@dataclass(frozen=True)
class KnownText:
    """What is known of a text.

    Attributes:
        name: how figures on it are labelled.
        cuts: byte offsets where valid and test begin; None where the files themselves are the splits. A cut at the end
            of the text means that it has no test split.
        rule: where the split comes from.
        licence: of the text.
        use: what the text, and weights trained on it, may be used for.
        whole_alphabet: every symbol of train gets an id however rare, because the alphabet is part of the benchmark.
    """

    name: str
    cuts: tuple[int, int] | None
    rule: str
    licence: str
    use: str
    whole_alphabet: bool = False


_WIKIPEDIA_CUTS = (90_000_000, 95_000_000)

# md5 of ptb.train.txt, ptb.valid.txt and ptb.test.txt as Mikolov published them, unpacked.
PTB_MD5 = ("f26c4b92c5fdc7b3f8c7cdcb991d8420", "aa0affc06ff7c36e977d7cd49e3839bf", "8b80168b89c18661a38ef683c0dc3721")
PTB = KnownText(
    "Penn Treebank, characters",
    None,
    "Mikolov's three files",
    "WSJ text (c) LDC / Dow Jones; free for research purposes",
    RESEARCH,
    whole_alphabet=True,
)

# By md5 of the unpacked bytes.
TEXTS = {
    "3bea1919949baf155f99411df5fada7e": KnownText(
        "text8", _WIKIPEDIA_CUTS, "90M/5M/5M characters", "GFDL / CC BY-SA 3.0", ATTRIBUTION, whole_alphabet=True
    ),
    "a1fa5ffddb56f4953e226637dabbb36a": KnownText(
        "enwik8", _WIKIPEDIA_CUTS, "90M/5M/5M bytes", "GFDL / CC BY-SA 3.0", ATTRIBUTION
    ),
    "a6d2c4a2fe827e7eb5af83383a6f2aa0": KnownText(
        "enwiki27", _WIKIPEDIA_CUTS, "90M/5M/5M characters, as for text8", CC_BY_SA, ATTRIBUTION, whole_alphabet=True
    ),
    "42db2bbc7e3ad0232bdf1749cad86e3f": KnownText(
        "enwiki100", _WIKIPEDIA_CUTS, "90M/5M/5M bytes, as for enwik8", CC_BY_SA, ATTRIBUTION
    ),
    "6c22c1d0f0da905b169494771b4ff1dd": KnownText(
        "novels",
        (68_756_536, 70_694_590),
        "whole books: 86 for training, 4 for validation, 4 for testing",
        "public domain (authors dead for over 70 years, published before 1930); the collection states no licence",
        ANY,
    ),
    "6fb458f1232090904fb40fe944165e91": KnownText(
        "tinyshakespeare",
        (1_003_854, 1_115_394),
        "nanoGPT's 90/10; there is no test split, so test is valid once more",
        "public domain",
        ANY,
        whole_alphabet=True,
    ),
    "27365183c33bc968ba87e9b6619d1804": KnownText(
        "War and Peace", (2_556_982, 2_876_605), "80/10/10 as in Karpathy et al. 2015", "public domain", ANY
    ),
    "3203d747e9565c34da22501f809ce908": KnownText(
        "Tang poems",
        (11_598_558, 12_455_331),
        "whole poems, 88/7/5",
        "MIT (the collection); the texts are in the public domain",
        ANY,
    ),
    "c84ada5718d741d1ba24ed0cbe493976": KnownText(
        "Song ci",
        (5_204_199, 5_432_519),
        "whole poems, 91/4/5",
        "MIT (the collection); the texts are in the public domain",
        ANY,
    ),
    "7aa6772f8b7d5f37b6d3031e3e98667f": KnownText(
        "zhwiki24", (21_600_000, 22_799_999), "90/5/5 of the bytes, cut between characters", CC_BY_SA, ATTRIBUTION
    ),
}


@dataclass(frozen=True)
class KnownInk:
    """What is known of a set of pen strokes: how figures are labelled, its licence and its use."""

    name: str
    licence: str
    use: str


# By sha256 of the .npz file.
INKS = {
    "c534e132fcbf63a0f1dc303473ff3bb266739b1f8a6646994736f8796229fd2e": KnownInk(
        "IAM-OnDB",
        "(c) FKI, University of Bern; free for non-commercial research after registration, "
        "with citation of Liwicki and Bunke 2005; no redistribution",
        NON_COMMERCIAL,
    ),
    "c398d266383bb779d1c1bf14fad86aa010dc42fa8718d1dabfb199dab3dc1f71": KnownInk(
        "ImadocSen-OnDB", "none stated; research data of IRISA, Rennes", RESEARCH
    ),
}

UNKNOWN_LICENCE = "not known"
UNKNOWN_USE = "not known: ask the owner of the data"
