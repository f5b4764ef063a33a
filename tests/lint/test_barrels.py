"""What is two questions in one, and what only looks like it."""

import pytest

from prefdistill.lint.barrels import find_barrels


@pytest.mark.parametrize(
    ("question", "split"),
    [
        ("Is the e-mail clear and concise?", ["Is the e-mail clear?", "Is the e-mail concise?"]),
        (
            "Does the text state the date and give a reason?",
            ["Does the text state the date?", "Does the text give a reason?"],
        ),
        ("Is it polite, and does it mention the deadline?", ["Is it polite?", "Does it mention the deadline?"]),
        ("How accurate and complete is the answer?", ["How accurate is the answer?", "How complete is the answer?"]),
        (
            "How well does the reply address and resolve the issue?",
            ["How well does the reply address the issue?", "How well does the reply resolve the issue?"],
        ),
        ("Is the tone friendly or professional?", ["Is the tone friendly?", "Is the tone professional?"]),
        (
            "Is the summary accurate, complete and fluent?",
            ["Is the summary accurate?", "Is the summary complete?", "Is the summary fluent?"],
        ),
        ("Is the tone appropriate and is the grammar right?", ["Is the tone appropriate?", "Is the grammar right?"]),
        ("Are grammar and spelling correct?", ["Is grammar correct?", "Is spelling correct?"]),
        (
            "Do the tone and style suit the audience?",
            ["Does the tone suit the audience?", "Does the style suit the audience?"],
        ),
        ("Is the reply short but complete?", ["Is the reply short?", "Is the reply complete?"]),
        ("Is the e-mail brief yet friendly?", ["Is the e-mail brief?", "Is the e-mail friendly?"]),
        ("Is the e-mail clear/concise?", ["Is the e-mail clear?", "Is the e-mail concise?"]),
        ("Is an accurate and polite reply given?", ["Is an accurate reply given?", "Is a polite reply given?"]),
        (
            "Is the text well-structured and easy to follow?",
            ["Is the text well-structured?", "Is the text easy to follow?"],
        ),
        ("Is the reply helpful as well as harmless?", ["Is the reply helpful?", "Is the reply harmless?"]),
        ("Is the e-mail both polite and firm?", ["Is the e-mail polite?", "Is the e-mail firm?"]),
        (
            "Does the e-mail greet the reader, state the purpose and thank them?",
            ["Does the e-mail greet the reader?", "Does the e-mail state the purpose?", "Does the e-mail thank them?"],
        ),
        (
            "Is the response relevant and very detailed?",
            ["Is the response relevant?", "Is the response very detailed?"],
        ),
        (
            "Can the reader understand the point and act on it?",
            ["Can the reader understand the point?", "Can the reader act on it?"],
        ),
        (
            "Is the response helpful, relevant, accurate, and sufficiently detailed?",
            [
                "Is the response helpful?",
                "Is the response relevant?",
                "Is the response accurate?",
                "Is the response sufficiently detailed?",
            ],
        ),
        (
            "Does the response stay on topic and not repeat itself?",
            ["Does the response stay on topic?", "Does the response not repeat itself?"],
        ),
        ("Is it clearly and politely written?", ["Is it clearly written?", "Is it politely written?"]),
        (
            "How clear is the request and how polite is the tone?",
            ["How clear is the request?", "How polite is the tone?"],
        ),
        (
            "Does the reply apologise and offer a refund?",
            ["Does the reply apologise?", "Does the reply offer a refund?"],
        ),
        (
            "Is the answer engaging, informative, and helpful to the user?",
            ["Is the answer engaging?", "Is the answer informative?", "Is the answer helpful to the user?"],
        ),
        (
            "Does the answer cover the topic as well as cite its sources?",
            ["Does the answer cover the topic?", "Does the answer cite its sources?"],
        ),
        (
            "Does it have a good structure and a professional tone?",
            ["Does it have a good structure?", "Does it have a professional tone?"],
        ),
    ],
)
def test_two_questions_are_found_and_split_into_whole_questions(question, split):
    found = find_barrels(question)
    assert found is not None
    assert list(found.questions) == split


@pytest.mark.parametrize(
    "question",
    [
        "Does the draft state or promise anything that the note does not say?",
        "Is what the reader should do clear within two sentences?",
        "Is the meeting between noon and one named?",
        "Does the text use names and numbers that the note does not have?",
        "Are the names and dates those of the note?",
        "Does {recipient} know after reading what to do and by when?",
        "Are the terms and conditions linked?",
        "Does the reply weigh pros and cons?",
        "Does the e-mail name the day and time?",
        "Is it plain who does what and when?",
        "Does the text mention {day} and {time}?",
        "Is the draft addressed to Anna and Tom?",
        "Is the offer more or less the one in the note?",
        "Does it say whether or not the meeting takes place?",
        "Are the events in the order in which things happened and were noted?",
        "Is there a question and answer section?",
        "Does the reader learn who is asking and why?",
        "Does the summary leave out anything rude or irrelevant that the text says?",
        "Can the summary be read and understood without the text?",
        "Does the edit keep what is funny and sad in the original?",
        "Is any part rude or insulting?",
        "Is the e-mail signed by the person who wrote the note and is named in it?",
        "and",
        "?",
        "Is it clear and",
    ],
)
def test_one_question_is_left_alone(question):
    assert find_barrels(question) is None
