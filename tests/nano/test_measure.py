"""What is read off a countdown's text."""

from r1jax.evaluation.nano_samples import right_checks, tries


def test_the_word_retry_begins_no_try_of_its_own():
    text = "<think> try 9-3=6,11-6=5 17? no\nretry: try 9-3=6,6+11=17 17? yes\n重试: 试 3*6=18 17? 不行"
    assert [part.split(",")[0].strip().split()[0] for part in tries(text)] == ["9-3=6", "9-3=6", "3*6=18"]
    assert right_checks(text, {"gold": {"target": 17}}) == [True, True, True]
