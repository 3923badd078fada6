"""Names of devices and areas from four makers; train and held-out parts are disjoint.

Rooms and things of everyday speech (CORE_ROOMS, the nouns of a kind) are on both sides:
a model that never saw "kitchen" helps nobody. The distinguishing parts of a held-out name
(place, make, person, tag prefix, invented word) never occur in training. In training a part of them is new every
time (corpus/coined.py), so that names are read and not remembered.
"""
from corpus.coined import coin
from corpus.split import is_held_out, side

CORE_ROOMS = """kitchen;living room;bedroom;bathroom;hallway;garage;office;garden;basement;attic;dining room;kids room;guest room;laundry room;porch;patio""".split(";")
MORE_ROOMS = """master bedroom;back bedroom;front bedroom;study;den;nursery;library;playroom;workshop;utility room;pantry;cellar;balcony;terrace;deck;driveway;backyard;front yard;conservatory;sunroom;greenhouse;shed;barn;loft;landing;stairwell;corridor;lobby;reception;foyer;entrance;mud room;walk-in closet;wardrobe;powder room;ensuite;shower room;sauna;gym;pool house;cinema room;game room;music room;studio;lounge;family room;meeting room;conference room;break room;server room;print room;canteen;cafe;bar;wine cellar;boiler room;plant room;pump house;warehouse;loading dock;cold store;packing hall;line one;line two;paint shop;test bay;control room;compressor room;tank farm;stable;kennel;carport;roof;veranda;courtyard;snug;annex;cottage;upstairs hall;downstairs hall;west wing;east wing;chapel;classroom;lab;ward;clinic;office two;archive;vault;kiosk;storage room;cloakroom;larder;scullery;boathouse;orchard;hen house;workshop annex;back porch;side gate;tool shed;drying room;north hall;south hall;mezzanine;gallery;sick bay""".split(";")
PLACES = """ceiling;floor;bedside;desk;reading;wall;corner;main;pendant;counter;sink;island;mirror;vanity;closet;stairs;window;door;shelf;cabinet;spot;strip;standing;accent;night;closet;tv;sofa;bed;table;back;front;side;left;right;upper;lower;big;small;old;new;north;south;east;west;outdoor;inner;outer;entry;gate;fence;path;tree;flood;string;fairy;globe;torch;track;rear;centre;first;second;third;hob;oven;bath;shower;pool;fireplace;piano;easel;workbench;aquarium;coffee;backup;summer;winter;guest;work;party;cosy;hidden;long;round;glass;brass;copper;velvet;paper;amber;studio;drum;arch""".split(";")
FLOORS = "ground floor;first floor;second floor;upstairs;downstairs;basement level;top floor;lower level;level one;level two;mezzanine level;third floor".split(";")
PEOPLE = """Mia;Tom;Anna;Leo;Ella;Noah;Ruth;Ivan;Sara;Omar;Lena;Max;Nina;Hugo;Zoe;Karl;Amy;Ben;Chloe;David;Eva;Finn;Grace;Henry;Iris;Jack;Kate;Liam;Maya;Nora;Oscar;Paula;Quinn;Rosa;Sam;Tina;Uma;Vera;Will;Yara;Grandma;Grandpa;Dad;Mum;Emil;Freya;Gus;Hana;Ines;Jonas;Kofi;Lars;Mona;Nils;Olga;Pedro;Rafi;Selma;Theo;Wanda""".split(";")
TAGS = """AHU;FCU;VAV;PT;TT;FT;LT;PIC;TIC;VFD;PMP;MTR;FAN;CHW;HWS;BLR;CT;EF;SF;RTU;CV;XV;MOV;SOV;HX;CMP;DMP;ZN;RLY;DO;DI;AO;UPS;GEN;INV;MCC;WTR;STM;TK;SEP""".split(";")
SYLLABLES = """ba be bi bo bra bri dal del dor dra el en fa fen fi flo gal gor gra hal hel in jo ka kel ki kor la len li lo lu lux ma mel mi mo na nel ni no nor o pa pel pi pra qua ra rel ri ro sa sel si so sol ta tel ti to tor tra u va vel vi vo vor wen xa xi ya yo za zel zi zo""".split()
ENDINGS = ["", "", "x", "n", "s", "r", "th", "ck", "m", "l"]
MODELS = ["", "", "Mini", "Pro", "One", "Plus", "Air", "Duo", "S", "X2", "Q7", "500", "Go", "Max"]


NEW = 0.3  # of the distinguishing parts of training names


def _pick(rng, texts, held_out):
    """A listed part of a name; in training also a coined one."""
    if not held_out and rng.random() < NEW:
        return coin(rng)
    return rng.choice(side("name", texts, held_out))


def _tag(rng, held_out):
    """The letters of a tag code; in training also ones that stand for nothing."""
    if not held_out and rng.random() < NEW:
        while True:
            letters = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.choice((2, 2, 3, 3, 4))))
            if not is_held_out("name", letters):
                return letters
    return rng.choice(side("name", TAGS, held_out))


def invented_word(rng, held_out):
    """A word of 2-3 syllables whose hash lies on the wanted side; in training mostly a coined one."""
    if not held_out and rng.random() < 0.7:
        word = coin(rng)
        return word[:1].upper() + word[1:] if rng.random() < 0.9 else word.upper()
    while True:
        word = "".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3)))) + rng.choice(ENDINGS)
        if len(word) > 3 and is_held_out("name", word) == held_out:
            return word.capitalize()


def area_name(rng, held_out):
    """A room; about a quarter from the core list on either side, some invented or owned by a person."""
    draw = rng.random()
    if draw < (0.25 if held_out else 0.45):
        room = rng.choice(CORE_ROOMS)
    elif draw < 0.85:
        room = _pick(rng, MORE_ROOMS, held_out)
    elif draw < 0.93:
        return f"{_pick(rng, PEOPLE, held_out)}'s {rng.choice(('room', 'office', 'bedroom', 'den'))}"
    else:
        return f"{invented_word(rng, held_out)} {rng.choice(('room', 'hall', 'suite', 'bay'))}"
    return room if rng.random() < 0.15 else title(room)


def title(text):
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def device_name(rng, noun, area, held_out, plant=False):
    """A name for a thing called `noun` in `area` (its display name)."""
    draw = rng.random()
    if plant and draw < 0.6:
        prefix = _tag(rng, held_out)
        joint = rng.choice(("-", "_", " ", ""))
        number = str(rng.randrange(1, 1000)).zfill(rng.choice((1, 2, 3)))
        tag = f"{prefix}{joint}{number}"
        tag = tag.lower() if rng.random() < 0.25 else tag
        return f"{tag} {noun}" if rng.random() < 0.25 else tag
    if draw < 0.25:
        return title(f"{area} {noun}")
    if draw < 0.45:
        return title(f"{area} {_pick(rng, PLACES, held_out)} {noun}")
    if draw < 0.68:
        name = title(f"{_pick(rng, PLACES, held_out)} {noun}")
    elif draw < 0.76:
        name = title(f"{_pick(rng, PEOPLE, held_out)}'s {noun}")
    elif draw < 0.90:
        tail = rng.choice((title(noun), title(noun), rng.choice(MODELS)))
        name = f"{invented_word(rng, held_out)} {tail}".strip()
    else:
        name = f"{title(noun)} {rng.choice('1234567890ABCD')}"
    return name if rng.random() < 0.9 else name.lower()


def possible(nouns, held_out):
    """How many device names each maker can give for things called `nouns`: {maker: count}; invented words of two syllables only."""
    rooms = len(set(CORE_ROOMS) | set(side("name", MORE_ROOMS, held_out)))
    places, people, tags = (len(set(side("name", words, held_out))) for words in (PLACES, PEOPLE, TAGS))
    words = {first + second + ending for first in SYLLABLES for second in SYLLABLES for ending in ENDINGS}
    invented = sum(len(word) > 3 and is_held_out("name", word) == held_out for word in words)
    return {"rooms and things": (rooms * (1 + places) + places) * nouns, "people": people * nouns, "tags": tags * 4 * 999 * 2, "invented": invented * (nouns + len(set(MODELS)))}
