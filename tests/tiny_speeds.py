"""What a probe might find, in numbers that multiply by hand."""

from dataclasses import replace

from retort.speeds import ReaderTried, Speeds, StudentTried, TeacherTried, Tried, Weights

QUESTIONS = {"train": 20, "dev": 6, "test": 8}
STUDENT = StudentTried(
    Weights(1000, 800), encoded=Tried(10.0, 7.0), distilled=Tried(2.0, 11.0), query_tokens=5.0, passage_tokens=15.0,
    vector_bytes=48.0, vectors=1.0, dimension=24,
)  # fmt: skip
READER = ReaderTried(Weights(5000, 4000), read=Tried(4.0, 13.0), labelled=Tried(5.0, 3.0), string_tokens=30.0)
SPEEDS = Speeds(
    STUDENT, READER, (), indexed=20.0, posting_bytes=50.0, searched=1000.0, process_bytes=10_000.0, device="cuda"
)  # fmt: skip


def speeds(*teachers: TeacherTried, reader: bool = True, **student) -> dict[int, Speeds]:
    """The same in each of two rounds, with further teachers, and other values of the student's."""
    found = replace(SPEEDS, teachers=teachers, student=replace(STUDENT, **student))
    return dict.fromkeys(range(3), found if reader else replace(found, reader=None))
