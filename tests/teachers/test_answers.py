from retort.records import Group, Passage, Query
from retort.teachers.answers import AnswersTeacher

PASSAGES = (Passage("a", "snow", "rain falls"), Passage("b", "", "Snow, again"), Passage("c", "", "snowfall"))


def test_texts_that_hold_an_answer_as_whole_words_score_one_and_titles_do_not_count():
    assert AnswersTeacher().score([Group(Query("q", "what", ("snow", "hail")), PASSAGES)])[0].tolist() == [0.0, 1.0, 0.0]


def test_without_answers_or_passages_there_is_nothing_to_find():
    empty, none = AnswersTeacher().score([Group(Query("q", "what", ("snow",)), ()), Group(Query("r", "what"), PASSAGES)])
    assert (empty.shape, none.tolist()) == ((0,), [0.0, 0.0, 0.0])
