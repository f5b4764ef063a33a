"""Word lists that the checks share: days, months, number words, polite formulas and ordinary words.

Everything is lower case and spelled with straight apostrophes, as `text.fold` leaves it. The lists are English where a
list cannot be complete; greetings and closings know the most usual formulas of other European languages.
"""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    """Return the words of `text` as a set."""
    return frozenset(text.split())


WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
WEEKDAY_SHORT = {
    "mon": "monday", "tue": "tuesday", "tues": "tuesday", "wed": "wednesday", "thu": "thursday", "thur": "thursday",
    "thurs": "thursday", "fri": "friday", "sat": "saturday", "sun": "sunday",
}  # fmt: skip
RELATIVE_DAYS = ("tomorrow", "tonight", "yesterday")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
MONTH_SHORT = ("jan", "feb", "mar", "apr", "jun", "jul", "aug", "sept", "sep", "oct", "nov", "dec")

UNITS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "dozen": 12,
}  # fmt: skip
TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}
ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15, "sixteenth": 16,
    "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30, "once": 1, "twice": 2,
}  # fmt: skip

CURRENCIES = {
    "$": "USD", "us$": "USD", "usd": "USD", "dollar": "USD", "dollars": "USD", "€": "EUR", "eur": "EUR", "euro": "EUR",
    "euros": "EUR", "£": "GBP", "gbp": "GBP", "pound": "GBP", "pounds": "GBP", "¥": "JPY", "jpy": "JPY", "yen": "JPY",
    "₹": "INR", "inr": "INR", "rupees": "INR", "chf": "CHF", "francs": "CHF", "cad": "CAD", "aud": "AUD", "sek": "SEK",
    "nok": "NOK", "dkk": "DKK", "pln": "PLN",
}  # fmt: skip

NEVER_LAST = _set(
    """
    mr mrs ms mx dr prof st messrs hon rev gen col capt lt sgt gov pres e.g i.e eg ie vs cf viz resp approx ca fig
    figs sec ch vol pp al attn ref tel ext bzw z.b d.h u.a ggf evtl nr hr fr
    """
)
"""Abbreviations that do not end a sentence: something always follows them."""
SOMETIMES_LAST = _set(
    """
    a.m p.m am pm etc inc ltd co corp llc plc gmbh jr sr dept est min max avg hrs u.s u.k e.u ph.d b.a m.a b.sc m.sc
    d.c jan feb mar apr jun jul aug sept sep oct nov dec mon tue tues wed thu thur thurs fri sat sun ave blvd rd p.s
    usw no bros
    """
)
"""Abbreviations that end a sentence only where a new one visibly begins."""

GREETINGS = (
    r"hi|hello|hey|hiya|dear|greetings|good (?:morning|afternoon|evening|day)|to whom it may concern|welcome"
    r"|hallo|guten (?:tag|morgen|abend)|liebe[rs]?|sehr geehrte[rs]?|moin|servus|grüezi|grüß gott"
    r"|bonjour|bonsoir|salut|chère?s?|hola|buen[oa]s (?:d[ií]as|tardes|noches)|estimad[oa]s?|querid[oa]s?"
    r"|ciao|buongiorno|buonasera|gentile|car[oai]|egregi[oa]|olá|prezad[oa]s?|bom dia|boa tarde"
    r"|beste|geachte|goedemorgen|goedemiddag|hej|hei|bästa|kjære|kære|cześć|szanown[aiy]\w*|dzień dobry"
    r"|уважаем\w+|здравствуйте|привет|добрый день|你好|您好|尊敬的\w*|こんにちは|안녕하세요"
    r"|مرحبا|السلام عليكم|שלום|नमस्ते"
)
"""Words that open a letter, as a regular expression over folded text."""
CLOSINGS = (
    r"(?:with |my |our )?(?:(?:best|kind|kindest|warm|warmest|many|sincere|friendly|all good) )?(?:and )?"
    r"(?:regards|wishes|greetings|thanks)(?: (?:again|in advance|so much|and (?:best |kind |warm )?regards))?"
    r"|(?:all (?:the|my) )?best|thank you(?: (?:again|in advance|so much|very much|and (?:best |kind |warm )?regards))?"
    r"|thx|sincerely(?: yours)?|yours(?: (?:sincerely|faithfully|truly|respectfully|ever))?|(?:very )?truly yours"
    r"|(?:most )?respectfully(?: yours)?|cordially(?: yours)?|warmly|cheers|take care|talk soon|see you(?: soon| then)?"
    r"|with (?:gratitude|appreciation|thanks)|gratefully|looking forward|until then|have a (?:great|good|nice) \w+|ciao"
    r"|(?:mit )?(?:freundlichen|besten|herzlichen|vielen|lieben|schönen) grü(?:ß|ss)en?"
    r"|(?:freundliche|beste|herzliche|viele|liebe|schöne) grü(?:ß|ss)e|hochachtungsvoll|vielen dank|lg|vg|mfg"
    r"|(?:bien )?cordialement|bien à (?:vous|toi)|amicalement|salutations(?: distinguées)?|merci(?: d'avance)?"
    r"|(?:un )?(?:cordial )?saludos?(?: cordial(?:es)?)?|atentamente|un abrazo|gracias"
    r"|(?:cordiali|distinti) saluti|un saluto|grazie|atenciosamente|cumprimentos|abraços|obrigad[oa]"
    r"|(?:met )?(?:vriendelijke|hartelijke) groet(?:en)?|groet(?:en|jes)?"
    r"|(?:med )?vänlig(?:a)? hälsning(?:ar)?|(?:med )?vennlig hilsen|(?:med )?venlig hilsen|mvh"
    r"|z poważaniem|pozdrawiam|с уважением|с наилучшими пожеланиями"
    r"|此致|敬具|よろしくお願いします|감사합니다|مع أطيب التحيات|בברכה"
)
"""Formulas that close a letter, as a regular expression over folded text."""
SUBJECTS = r"subject(?: line)?|betreff|objet|asunto|oggetto|assunto|onderwerp|ämne|emne|temat|тема|件名|主题"

PERSON_VERBS = _set(
    """
    said says asked asks told tells wants wanted wrote writes mentioned agreed agrees confirmed suggested suggests
    thinks promised approved prefers offered replied insists
    """
)
"""Verbs whose subject is somebody: a capitalised word that opens a sentence before one is a name."""
ORDINARY = _set(
    """
    a about above accordingly across action actually after afterwards again against ago ahead all almost along
    already also although always am an and another any anybody anyone anything anyway apart apologies appreciate are
    around as ask assuming at attached await awaiting away back based be because become been before behind being
    below beside besides best better between beyond both briefly bring build but by bye call can cannot care
    certainly cheers check clearly colleague colleagues come complete completely concerning confirm congrats
    congratulations consider contact cordially could currently customer customers client clients day days dear
    deadline despite details did discuss do does doing don done dont down draft due during each earlier early either
    else email emails e-mail ensure especially even evening every everybody everyone everything except excuse
    faithfully far feel few final finally find first firstly folks follow following for forward forwarded fourth
    friend friends from further furthermore fwd generally gentlemen get getting give given giving glad go going good
    gratefully great greetings guys had half happy has have having he hello help hence her here here's hereby hers
    hey hi him hiring his hope hopefully how however i if important in inside instead into is isn't it it'll it's
    its join just keep kind kindest kindly know lady ladies last lastly late later least less let let's like
    likewise look looking lots love ma'am madam made mail make making manager many may maybe me mean meanwhile meet
    meeting message might mine miss more moreover morning most mr mrs ms mx much must my namely need neither never
    nevertheless new next no nobody none nor not note nothing now of off ok okay old on once one only onto open or
    other others otherwise our ours out over own page partly past per perhaps personally please plus possible
    possibly prior probably prof provided quick quickly quite rather re read really recently regarding regards
    regretfully remember reminder request required respectfully review right sadly same say second secondly see seen
    send sent several shall share she should similarly simply since sincerely sincere sir sirs so some somebody
    someone something sometimes soon sorry specifically start starting still stop subject such summary suppose sure
    take talk team tell than thank thanks that that's the their theirs them then there there's therefore these they
    third thirdly this those though three through throughout thus till time times to today together too toward
    towards truly try two ultimately under unfortunately unless unlike until up update upon urgent us use usually
    various very via wait want warm warmest warmly was wasn't we we'll we're we've welcome well were what what's
    whatever when whenever where whereas whether which whichever while who whoever whole whom whose why will wish
    wishes with within without won't work working would write writing yes yet you you'll you're you've your yours
    yourself pm asap fyi eod eob cob eta ps p.s rsvp tba tbc tbd q&a faq cc bcc attn ref vs dr
    assign book copy email expect express include inform introduce invite notify pass pay phone print replace remind
    remove ring schedule sign submit text thank visit warn
    """
)
"""Words that are no names wherever they are capitalised."""
CONNECTING = _set("at on by of the in and from for to till until before after a an around about @")
"""Small words between the parts of a date or a time."""
