"""Invented letters like those of shops, banks and doctors, in several languages.

`transactional` letters answer what one person did; `campaigns` are one text to everybody.
"""

import random
from collections.abc import Iterator

from msgspec import Struct

_FIRST = [
    "Jeanne",
    "Marc",
    "Lucie",
    "Karim",
    "Sophie",
    "Paul",
    "Léa",
    "Hugo",
    "Anna",
    "Jürgen",
    "Petra",
    "Klaus",
    "Carmen",
    "José",
    "Lucía",
    "Pablo",
    "Giulia",
    "Marco",
    "Chiara",
    "Luca",
    "Sanne",
    "Daan",
    "Emma",
    "Bram",
    "Alice",
    "James",
    "Olivia",
    "Harry",
    "Nadia",
    "Omar",
    "Zoé",
    "Noël",
]
_LAST = [
    "Durand",
    "Martin",
    "Petit",
    "Moreau",
    "Garcia",
    "Müller",
    "Schmidt",
    "Weber",
    "Fernández",
    "López",
    "Rossi",
    "Bianchi",
    "Jansen",
    "Bakker",
    "Smith",
    "Jones",
    "Taylor",
    "Brown",
    "Lefèvre",
    "Dubois",
    "Fischer",
    "Wagner",
    "Conti",
    "Visser",
    "O'Brien",
    "Haddad",
]
_GOODS = [
    "shoes",
    "winter boots",
    "a raincoat",
    "running socks",
    "a leather belt",
    "a blue shirt",
    "a backpack",
    "gloves",
    "a wool hat",
    "sandals",
    "a scarf",
    "jeans",
    "a linen dress",
    "sneakers",
    "a sports bag",
    "a wallet",
]
_PLACES = [
    "Paris",
    "Lyon",
    "Lille",
    "Nantes",
    "Köln",
    "Berlin",
    "Madrid",
    "Sevilla",
    "Roma",
    "Milano",
    "Utrecht",
    "Leiden",
]


class Letter(Struct, frozen=True):
    """One letter to one person; `kind` is the name of its template."""

    kind: str
    address: str
    name: str  # as in To; empty if To has only the address
    html: bool
    body: str


TEMPLATES: dict[str, tuple[str, ...]] = {
    "receipt": (
        "Hello {first}, thank you for your order {order}. You bought {goods} for {price}."
        " Paid by card ending in {four} on {date}. See your order: {link}",
        "Bonjour {first}, merci pour votre commande n° {order} du {date} : {goods}, total {price}."
        " Suivez votre commande ici : {link}",
        "Hallo {first}, vielen Dank für Ihre Bestellung {order}: {goods}, Gesamtbetrag {price},"
        " bezahlt am {date}. Ihre Bestellung: {link}",
        "Hola {first}: gracias por su pedido {order} del {date}: {goods}, total {price}. {link}",
    ),
    "code": (
        "Your verification code is {code}. It expires in 10 minutes. Do not share it with anybody.",
        "Votre code de connexion est {code}. Il est valable 10 minutes. Ne le donnez à personne.",
        "Ihr Anmeldecode lautet {code}. Er gilt 10 Minuten. Geben Sie ihn nicht weiter, bitte.",
        "Il tuo codice di accesso è {code}. Scade tra 10 minuti. Non condividerlo con nessuno.",
    ),
    "invoice": (
        "Dear {first} {last}, your invoice {order} of {date} over {price} is attached. Please pay"
        " by bank transfer within 30 days, reference {order}.",
        "Madame, Monsieur, veuillez trouver votre facture {order} du {date}, d'un montant de"
        " {price}, à régler sous 30 jours. Référence à rappeler : {order}.",
        "Sehr geehrte Damen und Herren, anbei die Rechnung {order} vom {date} über {price},"
        " zahlbar innerhalb von 30 Tagen.",
    ),
    "same invoice": (  # a subscription: date and amount are the same for everybody
        "Hello {first}, your invoice for November 2026 is ready: 9.99 EUR for one month. You can"
        " download it from your account: {link}",
        "Bonjour {first}, votre facture de novembre 2026 est disponible : 9,99 € pour un mois."
        " Téléchargez-la dans votre espace client : {link}",
    ),
    "password reset": (
        "Hi {first}, somebody asked for a new password for your account. Set one here: {link}"
        " If it was not you, do nothing and your password stays as it is.",
        "Bonjour {first}, vous avez demandé à changer votre mot de passe. Choisissez-en un nouveau"
        " ici : {link} Si ce n'est pas vous, ne faites rien.",
        "Hallo {first}, setzen Sie hier Ihr Passwort zurück: {link} Wenn Sie das nicht waren,"
        " brauchen Sie nichts zu tun.",
    ),
    "password reset with its time": (
        "Hi {first}, at {time} on {date} somebody asked for a new password from {ip}. Set one"
        " here: {link} If it was not you, do nothing.",
        "Bonjour {first}, le {date} à {time}, depuis {ip}, on a demandé un nouveau mot de passe."
        " Choisissez-le ici : {link}",
    ),
    "appointment": (
        "Dear {first}, this is to remind you of your appointment on {date} at {time} with Dr"
        " {doctor} in {place}. Please call us if you cannot come.",
        "Bonjour {first}, nous vous rappelons votre rendez-vous du {date} à {time} avec le Dr"
        " {doctor}, à {place}. Merci de nous prévenir en cas d'empêchement.",
        "Beste {first}, wij herinneren u aan uw afspraak op {date} om {time} bij dr. {doctor} in"
        " {place}. Bel ons als u niet kunt komen.",
    ),
    "shipping": (
        "Good news, {first}! Your parcel {order} with {goods} is on its way and will arrive on"
        " {date}. Track it here: {link}",
        "Buone notizie {first}, il pacco {order} è partito e arriverà il {date}. Seguilo qui:"
        " {link}",
        "Votre colis {order} est en route et arrivera le {date}. Suivi : {link}",
    ),
    "welcome": (
        "Welcome {first}! Please confirm your address by opening this link: {link} You can then"
        " sign in to your account with it.",
        "Bienvenue {first} ! Confirmez votre adresse en ouvrant ce lien : {link} Vous pourrez"
        " ensuite vous connecter.",
    ),
}

CAMPAIGNS: dict[str, str] = {
    "one text": (
        "Dear {first}, our winter sale has begun: everything at half price until 30 November."
        " Come and see: {link} Unsubscribe: {link}"
    ),
    "French, name in the subject only": (
        "Bonjour, nos soldes commencent : tout à moitié prix jusqu'au 30 novembre."
        " Découvrez-les : {link} Se désinscrire : {link}"
    ),
    "German, name in the text": (
        "Sehr geehrte {first} {last}, unser Winterschlussverkauf hat begonnen: alles zum halben"
        " Preis. Nur für Sie, {first}: {link}"
    ),
    "points of one's own": (
        "Hello {first}, you have {points} points! Spend them in our winter sale, everything at half"
        " price until 30 November: {link}"
    ),
    "goods of one's own": (
        "Hello {first}, people who liked {goods} love our winter sale, everything at half price:"
        " {link}"
    ),
}


def transactional(kind: str, count: int, seed: int = 1) -> Iterator[Letter]:
    """Yield that many letters of one kind, each to another person, in all its languages."""
    yield from _letters(kind, TEMPLATES[kind], count, seed)


def campaign(kind: str, count: int, seed: int = 1) -> Iterator[Letter]:
    yield from _letters(kind, (CAMPAIGNS[kind],), count, seed)


def _letters(kind: str, templates: tuple[str, ...], count: int, seed: int) -> Iterator[Letter]:
    chance = random.Random(f"{kind}{seed}")
    for number in range(count):
        first, last = chance.choice(_FIRST), chance.choice(_LAST)
        body = chance.choice(templates)
        while "{link}" in body:
            token = f"{chance.getrandbits(96):024x}"
            body = body.replace("{link}", f"https://shop.example/go/{token}?c={number}", 1)
        body = body.format(
            first=first, last=last, goods=chance.choice(_GOODS), place=chance.choice(_PLACES),
            order=f"{chance.randrange(10**8):08d}",
            price=f"{chance.randrange(500, 30000) / 100:.2f} €",
            four=f"{chance.randrange(10**4):04d}", code=f"{chance.randrange(10**6):06d}",
            date=f"{chance.randrange(1, 29)}.{chance.randrange(1, 13)}.2026",
            time=f"{chance.randrange(8, 19)}:{chance.choice(('00', '15', '30', '45'))}",
            ip=f"192.0.{chance.randrange(256)}.{chance.randrange(256)}",
            doctor=chance.choice(_LAST), points=chance.randrange(10, 5000),
        )  # fmt: skip
        html = chance.random() < 0.7
        if html:
            body = f"<html><body><p>{body}</p><p>The Shop, 1 rue X, Paris</p></body></html>"
        local = f"{first}.{last}".lower().replace("'", "") + str(number)
        name = f"{first} {last}" if chance.random() < 0.5 else ""
        yield Letter(kind, f"{local}@people.example", name, html, body)
