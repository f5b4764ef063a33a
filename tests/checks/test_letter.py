"""Reading the parts of e-mails."""

import pytest

from prefdistill.checks.letter import read_letter


@pytest.mark.parametrize(
    ("text", "preamble", "subject", "greeting", "body", "sign_off"),
    [
        ("Hi Anna,\n\nPlease go.\n\nBest regards,\nTom", "", "", "Hi Anna,", "Please go.", "Best regards,\nTom"),
        ("Subject: Report\n\nDear Ms. Keller:\nGo. Thanks, Tom", "", "Subject: Report", "Dear Ms. Keller:", "Go.",
         "Thanks, Tom"),
        ("Here is your e-mail:\n\n**Subject:** X\n\nHello there!\n\nIt is late.\n\nTom Miller", "Here is your e-mail:",
         "**Subject:** X", "Hello there!", "It is late.", "Tom Miller"),
        ("Sure! Here's a draft of the email:\n\nHi Tom, could you go?\n\nThanks!\nAnna Keller\nHead of Sales",
         "Sure! Here's a draft of the email:", "", "Hi Tom,", "could you go?", "Thanks!\nAnna Keller\nHead of Sales"),
        ("Sure! Hi Anna, can you come?\nThanks", "Sure!", "", "Hi Anna,", "can you come?", "Thanks"),
        ("Certainly.\n\nAnna,\n\nit is late.\n\n– Tom", "Certainly.", "", "Anna,", "it is late.", "- Tom"),
        ("Hej Anna!\n\nHur mår du?\n\nMed vänlig hälsning\nSven", "", "", "Hej Anna!", "Hur mår du?",
         "Med vänlig hälsning\nSven"),
        ("Sehr geehrte Frau Keller,\n\nes ist spät.\n\nMit freundlichen Grüßen\nTom Maier", "", "",
         "Sehr geehrte Frau Keller,", "es ist spät.", "Mit freundlichen Grüßen\nTom Maier"),
        ("Hi Ben,\nplease review.\n\nKind regards\n*Tom*", "", "", "Hi Ben,", "please review.", "Kind regards\n*Tom*"),
        ("Hi all,\n\nDone.\n\nThanks again", "", "", "Hi all,", "Done.", "Thanks again"),
    ],
)  # fmt: skip
def test_parts(text: str, preamble: str, subject: str, greeting: str, body: str, sign_off: str) -> None:
    letter = read_letter(text)
    found = (letter.preamble, letter.subject, letter.greeting, letter.body, letter.sign_off)
    assert found == (preamble, subject, greeting, body, sign_off)


@pytest.mark.parametrize(
    "text",
    [
        "Sure, Friday works for me.",
        "Of course, I will come on Friday.",
        "Here is the report you asked for.\n\nIt has three parts.",
        "Good morning sessions were full.",
        "Thank you for your help with the report.",
        "Best practice is to ask early.",
        "Dear customers will notice the change in the long run of the thing.",
        "",
        "   \n\n ",
    ],
)
def test_plain_text_has_no_such_parts(text: str) -> None:
    letter = read_letter(text)
    assert (letter.preamble, letter.greeting, letter.sign_off) == ("", "", "")


@pytest.mark.parametrize(
    "opening",
    [
        "Sure!",
        "Sure, here's the draft:",
        "Certainly! Here is the revised paragraph:",
        "Certainly, I can help with that.",
        "Of course! Below is a professional e-mail.",
        "Absolutely!",
        "Here's a polite version of your message:",
        "Below is the rewritten text:",
        "I've drafted the following email for you:",
        "Revised version:",
        "As an AI language model, I cannot sign letters.",
        "**Here is the email:**",
    ],
)
def test_preambles(opening: str) -> None:
    assert read_letter(f"{opening}\n\nHi Anna,\n\nPlease go.").preamble
    assert read_letter(f"{opening}\n\nHi Anna,\n\nPlease go.").greeting == "Hi Anna,"
