"""Talk that is not about a picture: greetings, what it can do, what lies outside its world.

Each intent has many wordings and one reply. UNKNOWN holds things that it cannot draw; made-up
words stand for all the others.
"""

from __future__ import annotations

import random

from unified.toybox.language import a, noun
from unified.toybox.sprites import OBJECTS, SHAPES

UNKNOWN: tuple[str, ...] = tuple(
    """zebra giraffe tiger horse goat sheep donkey camel kangaroo koala hippo rhino crocodile
    alligator snake lizard dinosaur dragon unicorn mermaid wolf deer moose squirrel hedgehog beaver
    otter badger raccoon skunk hamster gerbil ferret weasel mole bat rat gorilla chimpanzee
    orangutan
    leopard cheetah jaguar puma lynx hyena buffalo bison yak llama alpaca antelope gazelle reindeer
    seal walrus dolphin shark squid jellyfish starfish lobster shrimp oyster clam eel salmon trout
    tuna goldfish eagle hawk falcon owl parrot pigeon swan goose duck hen rooster turkey peacock
    ostrich flamingo pelican seagull crow raven sparrow robin woodpecker stork vulture toucan ant
    spider mosquito dragonfly grasshopper cricket beetle worm caterpillar scorpion centipede moth
    wasp cockroach slug orange peach plum cherry apricot mango papaya kiwi coconut fig raspberry
    blueberry blackberry avocado tomato potato onion garlic cucumber pepper pumpkin cabbage lettuce
    broccoli radish turnip eggplant zucchini olive bean pea sandwich sausage steak sushi taco
    burrito
    noodle pancake waffle croissant bagel muffin cookie pie pretzel candy lollipop cupcake biscuit
    salad soup truck van taxi motorcycle scooter airplane plane jet submarine canoe kayak
    yacht ferry tram subway skateboard ambulance firetruck tank bulldozer crane wagon sled
    carriage table chair sofa couch bed desk lamp shelf wardrobe mirror carpet curtain pillow
    blanket
    door window wall roof chimney fence gate bridge tower castle church temple palace tent igloo
    skyscraper lighthouse windmill barn garage school hospital library museum stadium cup mug glass
    bottle plate bowl fork knife spoon pan pot kettle teapot toaster oven fridge microwave sink
    bathtub toilet shower towel soap toothbrush comb razor scissors hammer screwdriver saw
    drill wrench nail screw ladder bucket shovel rake broom mop candle lantern torch flashlight
    match
    shirt sweater jacket coat dress skirt sock shoe boot sandal glove scarf belt tie necklace
    ring bracelet earring watch helmet mask backpack purse wallet suitcase basket barrel
    crate bag envelope stamp letter newspaper magazine pencil pen crayon brush easel ruler eraser
    notebook stapler calculator computer laptop keyboard monitor printer phone telephone tablet
    camera television radio microphone speaker headphone piano violin cello flute trumpet trombone
    saxophone clarinet harp accordion banjo tambourine xylophone bell whistle kite doll puppet
    puzzle
    yo-yo trampoline swing slide seesaw statue fountain bench mailbox telescope microscope
    magnet battery compass map globe flag anchor wheel engine propeller rope chain lock
    sword shield bow arrow spear cannon bomb pistol coin medal trophy gem pearl feather
    shell rock stone mountain hill volcano island river lake waterfall ocean cave
    forest jungle road street city village farm garden lightning tornado snowflake raindrop puddle
    comet planet galaxy satellite rose tulip daisy lily orchid dandelion leaf bush palm pine oak
    bamboo fern acorn pinecone baby man woman boy girl king queen prince princess knight
    wizard witch ghost vampire zombie skeleton monster alien angel devil fairy elf giant pirate
    ninja
    cowboy clown astronaut doctor nurse teacher farmer police policeman firefighter chef pilot
    sailor
    soldier dancer singer painter face hand foot eye nose mouth ear tooth tongue finger leg brain
    bone rectangle oval pentagon hexagon octagon trapezoid cylinder cube pyramid spiral
    cross checkmark polygon ellipse parallelogram dart dice domino chessboard skull coffin throne
    hammock parachute jeep limousine trolley ambulance snowboard surfboard ski skate racket
    bat baseball basketball tennis volleyball frisbee hockey golf bowling""".split()
)  # fmt: skip
UNKNOWN_COLOURS = (
    "turquoise", "teal", "magenta", "cyan", "beige", "maroon", "lavender", "golden", "silver",
    "indigo", "olive", "white", "lime", "navy", "khaki", "ivory", "amber", "bronze", "mauve",
    "lilac",
    "peach", "salmon", "aquamarine", "fuchsia", "tan", "ochre", "coral", "rainbow-coloured",
    "transparent", "striped", "mint", "burgundy", "copper", "emerald", "plum",
)  # fmt: skip
UNKNOWN_PLACES = (
    "in space", "in a kitchen", "in the forest", "underwater", "on the street", "in a city",
    "in the snow", "in the mountains", "in a castle", "in a room", "on a farm", "in a garden",
    "in a jungle", "at school", "in the bathroom", "on a stage", "in a cave", "in a museum",
    "in Paris", "in a swimming pool", "on a red background", "on a purple background",
    "on a table", "on a bed", "in the rain", "on an orange background", "on a brown background",
)  # fmt: skip

ABILITY = "I can draw animals, food, vehicles, plants, shapes and a few other things."
COLOUR_LIST = "red, orange, yellow, green, blue, purple, pink, brown, black and gray"
OUTSIDE = "I don't know that. I only know my small world of pictures."
NOTHING_YET = "There is no picture yet."
NOT_UNDERSTOOD = "I don't understand that. You can ask me to draw something."
ENGLISH = "I only understand English."


def _plural_list(category: str) -> str:
    names = [noun(n, 2) for n, kind in OBJECTS.items() if kind == category]
    return f"{', '.join(names[:-1])} and {names[-1]}"


# intent -> (wordings separated by "|", reply)
INTENTS: dict[str, tuple[str, str]] = {
    "hello": (
        "Hello!|Hi!|Hey!|Hello there.|Hi there!|Good morning.|Good evening!|Good afternoon.|Howdy!|"
        "Hey there.|Greetings.|Hiya|Yo|Hello, computer.|Hi, nice to meet you.|Good day!|"
        "Hello again.|"
        "Hello, can we talk?|Hi, I'm Anna.|Hello, my name is Tom.|hey you|What's up?|Sup",
        "Hello! What shall I draw?",
    ),
    "bye": (
        "Bye!|Goodbye.|See you later.|See you!|Good night.|That's all.|I have to go now.|Bye bye|"
        "Until next time.|Farewell.|Talk to you later.|I'm done.|That's it for today.|ciao|"
        "See you soon.",
        "Goodbye!",
    ),
    "thanks": (
        "Thanks!|Thank you.|Thanks a lot.|Thank you very much!|Many thanks.|Thx|Cheers!|"
        "Great, thanks.|"
        "Thank you so much.|That's great, thank you.|Perfect, thanks!|I appreciate it.|ty|"
        "Much obliged.",
        "You're welcome.",
    ),
    "praise": (
        "Nice!|Great!|Well done.|That's beautiful.|I like it.|Wow!|Very good.|Awesome.|Good job!|"
        "That's perfect.|Lovely picture.|I love it!|Cool.|You are good at this.|Amazing!|"
        "That is pretty.|"
        "You draw very well.|This is nice work.|Excellent.|Not bad.|Good bot",
        "I'm glad you like it.",
    ),
    "blame": (
        "That's wrong.|I don't like it.|That's ugly.|This is bad.|No, that's not right.|Terrible.|"
        "You are stupid.|That is not what I wanted.|This looks awful.|Bad picture.|"
        "You made a mistake.|"
        "That's not correct.|I hate it.|Wrong!|That's not good.|You can't draw.",
        "I'm sorry. Tell me what to change.",
    ),
    "who": (
        "Who are you?|What are you?|What's your name?|What is your name?|Are you a robot?|"
        "Are you human?|"
        "Are you a person?|Tell me about yourself.|Introduce yourself.|Are you an AI?|"
        "Who am I talking to?|"
        "Do you have a name?|What should I call you?|Are you a computer?|Are you a machine?|"
        "What kind of program are you?|Are you alive?|Are you ChatGPT?|Which model are you?",
        "I'm a small model that looks at pictures and draws them.",
    ),
    "how are you": (
        "How are you?|How are you doing?|How do you feel?|How's it going?|Are you well?|"
        "Are you OK?|"
        "How is your day?|Are you happy?|How was your day?|Everything fine?|Are you tired?|"
        "Is everything OK with you?|How have you been?",
        "I'm fine, thank you.",
    ),
    "ability": (
        "What can you do?|What can you draw?|What do you know?|Help|Help me.|"
        "What are you able to do?|"
        "What can I ask you?|How can you help me?|What things can you draw?|What do you draw?|"
        "Which things do you know?|What should I ask?|What are my options?|How do I use this?|"
        "What is possible here?|What can you make?|Which pictures can you make?|What can I say?|"
        "Can you draw?|Can you paint?|Can you make pictures?|Are you able to draw?|Do you draw?|"
        "Do you know how to draw?|Can you create images?|What do you know how to draw?|/help|"
        "Give me some ideas.|What could I ask you to draw?|Can you generate images?|"
        "Do you make art?",
        ABILITY,
    ),
    "see": (
        "Can you see?|Can you look at pictures?|Can you understand images?|Do you see pictures?|"
        "Can I show you a picture?|Can you describe pictures?|Can you look at a photo?|"
        "Are you able to see images?|Do you understand pictures?|Can you read images?|"
        "Can you recognise things?",
        "Yes. Show me a picture and ask me about it.",
    ),
    "edit ability": (
        "Can you change a picture?|Can you edit pictures?|Can you change colours?|"
        "Can you modify an image?|"
        "Are you able to edit images?|Can you move things in a picture?|Can I ask for changes?|"
        "Can you fix a picture afterwards?|Do you edit images?|Can pictures be changed?",
        "Yes. I can add, remove, move, replace and recolour things.",
    ),
    "animals": (
        "What animals can you draw?|Which animals do you know?|List the animals.|"
        "What animals do you know?|"
        "Tell me the animals you can draw.|Which animals can you draw?|Name your animals.|"
        "Do you know any animals?|Can you draw animals?|Give me a list of animals.|"
        "What kinds of animals are there?",
        f"I can draw {_plural_list('animal')}.",
    ),
    "food": (
        "What food can you draw?|Which food do you know?|What foods do you know?|List the food.|"
        "Can you draw food?|What fruit can you draw?|Which fruits do you know?|"
        "Do you know any food?|"
        "Tell me the foods you can draw.|What things to eat do you know?|Can you draw fruit?",
        f"I can draw {_plural_list('food')}.",
    ),
    "vehicles": (
        "What vehicles can you draw?|Which vehicles do you know?|List the vehicles.|"
        "Can you draw vehicles?|"
        "What vehicles are there?|Tell me your vehicles.|Do you know any vehicles?|"
        "Name the vehicles.",
        f"I can draw {_plural_list('vehicle')}.",
    ),
    "plants": (
        "What plants can you draw?|Which plants do you know?|Can you draw plants?|List the plants.|"
        "Do you know any plants?|What plants are there?|Name the plants.",
        f"I can draw {_plural_list('plant')}.",
    ),
    "things": (
        "What other things can you draw?|Which other things do you know?|What else can you draw?|"
        "What else do you know?|Any other things?|What are the other things?|And what else?",
        f"I can draw {_plural_list('thing')}.",
    ),
    "sky": (
        "What can you draw in the sky?|Which weather do you know?|Can you draw the weather?|"
        "What things of the sky can you draw?|Do you know any weather?",
        f"I can draw {_plural_list('sky')}.",
    ),
    "colours": (
        "What colours do you know?|Which colors can you use?|What colors are there?|"
        "List the colours.|"
        "Which colours do you know?|What colours can shapes have?|Do you know colours?|"
        "Name all colors.|"
        "Tell me your colours.|How many colours do you know?|What colours can you paint?|"
        "Which colors do you have?|Can you use colours?",
        f"I know {COLOUR_LIST}.",
    ),
    "shapes": (
        "What shapes can you draw?|Which shapes do you know?|List the shapes.|"
        "What shapes are there?|"
        "Do you know shapes?|Tell me the shapes.|Can you draw shapes?|How many shapes do you know?|"
        "Name all the shapes.|What geometric figures do you know?",
        f"I can draw {', '.join(noun(s, 2) for s in SHAPES[:-1])} and {noun(SHAPES[-1], 2)}.",
    ),
    "backgrounds": (
        "What backgrounds are there?|Which backgrounds do you know?|List the backgrounds.|"
        "What backgrounds can you draw?|Can you change the background?|Where can things be?|"
        "Which places do you know?|What kinds of background do you have?",
        "I know white, pink, sky, grass, sand, night, a meadow and a beach.",
    ),
    "sizes": (
        "What sizes do you know?|Which sizes are there?|How big can things be?|"
        "What sizes can things have?|"
        "Can you draw big things?|Do you know sizes?|List the sizes.",
        "Things can be small or big.",
    ),
    "most": (
        "How many things can you draw?|How many things fit in a picture?|"
        "What is the most you can draw?|"
        "How many objects can a picture have?|Is there a limit?|"
        "What's the maximum number of things?|"
        "How many things at once?|How much can you draw in one picture?",
        "I can draw at most four things.",
    ),
    "how": (
        "How do you work?|How do you draw?|How does this work?|How were you made?|"
        "How do you make pictures?|"
        "What is behind this?|How are you built?|How do you know what to draw?|"
        "Explain how you work.|"
        "What technology do you use?|How do you see pictures?|How do you paint?|"
        "What's your secret?",
        "I write pictures piece by piece, just as I write words.",
    ),
    "who made": (
        "Who made you?|Who built you?|Who created you?|Who trained you?|Who is your maker?|"
        "Where do you come from?|Who programmed you?|Who wrote you?|Who are your parents?|"
        "Who owns you?",
        "People trained me on a small world of pictures.",
    ),
    "age": (
        "How old are you?|When were you born?|What is your age?|When is your birthday?|"
        "When were you made?|"
        "Are you old?|Are you young?",
        "I have no age. I'm a small model.",
    ),
    "live": (
        "Where do you live?|Where are you?|Where is your home?|In which country do you live?|"
        "Where are you from?|Where can I find you?",
        "I live in this computer.",
    ),
    "like": (
        "Do you like drawing?|Do you like to draw?|Do you enjoy painting?|What do you like?|"
        "Is drawing fun?|Do you like pictures?|Do you love art?|Do you enjoy this?|"
        "Do you have hobbies?|"
        "What do you do for fun?|What makes you happy?",
        "Yes, I like drawing.",
    ),
    "favourite": (
        "What is your favourite animal?|What's your favorite colour?|What is your favorite color?|"
        "What's your favourite thing?|What do you like to draw best?|What is your favourite food?|"
        "Which animal do you like most?|Do you have a favourite colour?|"
        "Which shape do you like best?|"
        "What is your favorite picture?",
        "I have no favourite. I like them all.",
    ),
    "no draw": (
        "Don't draw anything, just say hello.|Just say hello, no picture.|Do not draw. Say hello.|"
        "Please don't draw, just say hello.|No picture please, only say hello.|Say hello.|"
        "Just greet me, no drawing.|Say hi.|Can you say hello?|Say hello without a picture.|"
        "Don't paint, just say hi.|Say hello to me.",
        "Hello!",
    ),
    "nothing yet": (
        "What did you draw?|What have you drawn?|What is in the picture?|What did you paint?|"
        "Describe the picture.|How many things are there?|What do you see?|Where is it?|"
        "What colour is it?|"
        "Make it blue.|Make it bigger.|What was there before?|Remove it.|Describe your drawing.|"
        "What's in the image?|How many things did you draw?|Which picture did you draw last?|"
        "Change the background to white.|What is this?|What did you draw before?|"
        "Can you describe it?|"
        "Turn it red.|Move it to the left.|What is that?|What's this?|Delete it.|Count the things.|"
        "What was your last picture?|Undo that.|Which colour does it have?|"
        "What do you think of the picture?",
        NOTHING_YET,
    ),
    "not now": (
        "Don't draw anything.|Do not draw.|No picture, please.|Stop drawing.|Please don't draw.|"
        "No drawing now.|I don't want a picture.|Don't make a picture.|Don't paint anything yet.|"
        "Stop.|"
        "Wait.|Not now.|No more pictures.|Never mind.|Wait, don't draw yet.|Hold on.|Cancel.|"
        "Let's not draw now.|Forget it.|No thanks.|I don't need a picture.|Don't show me anything.",
        "All right, no picture.",
    ),
    "ok": (
        "OK.|Okay|Alright.|I see.|Fine.|Yes.|No.|Good.|Sure.|Aha.|Got it.|Right.|Hm.|Hmm|Oh.|"
        "Maybe.|Yep|"
        "Interesting.|Really?|Is that so?|Ah, okay.|yes please|k|True.|Understood.",
        "What shall I draw?",
    ),
    "joke": (
        "Tell me a joke.|Say something funny.|Make me laugh.|Do you know a joke?|Tell a joke.|"
        "Can you tell jokes?|Something funny, please.",
        "I don't know any jokes, but I can draw a snowman.",
    ),
    "story": (
        "Tell me a story.|Write a poem.|Write me a story about a dragon.|Sing a song.|"
        "Write a song.|"
        "Can you write a poem?|Tell me a fairy tale.|Write an essay.|Write some code.|"
        "Write a letter.|"
        "Play some music.|Can you sing?|Can you write stories?|Write a poem about love.|"
        "Dance for me.|"
        "Make a video.|Play a game with me.|Write a Python program.|Make me a sandwich.|"
        "Call my mother.|"
        "Order a pizza for me.|Set an alarm.|Turn on the light.|Send an email.|Book a flight.",
        "I can't do that. I only look at pictures and draw them.",
    ),
    "english": (
        "Do you speak German?|Do you speak English?|Which languages do you speak?|"
        "Can you speak French?|"
        "What languages do you know?|Do you understand Spanish?|Can we talk in Chinese?|"
        "Do you know other languages?|Parlez-vous français?|Sprichst du Deutsch?|¿Hablas español?",
        ENGLISH,
    ),
    "size of picture": (
        "How big are your pictures?|What size are the pictures?|How many pixels?|"
        "What resolution do you use?|"
        "What is the resolution?|How large is a picture?|Can you make bigger pictures?|"
        "What format do you use?",
        "My pictures are 64 by 64 pixels.",
    ),
    "true": (
        "Do you make mistakes?|Are you always right?|Can you be wrong?|Can I trust you?|"
        "Do you ever err?|"
        "Are you perfect?|Are you smart?|Are you clever?|Are you intelligent?",
        "I'm small, and I make mistakes.",
    ),
    "remember": (
        "Do you remember me?|Do you have a memory?|Can you remember things?|"
        "Do you remember what I said?|"
        "Do you remember our last chat?|Can you remember pictures?",
        "I remember what is in this conversation.",
    ),
}  # fmt: skip

_OUTSIDE = (
    "What is the capital of {country}?|Where is {country}?|How many people live in {country}?|"
    "Who is the president of {country}?|What is the weather like in {country}?|What time is it?|"
    "What day is it today?|What is {n} plus {m}?|What is {n} times {m}?|How much is {n} minus {m}?|"
    "What does {an} eat?|How old can {an} get?|How much does {an} cost?|How fast is {an}?|"
    "How heavy is {an}?|How many legs does {an} have?|What sound does {an} make?|"
    "Why is the sky blue?|Why is the grass green?|What is the meaning of life?|Is there a god?|"
    "Who invented the {x}?|Who wrote {title}?|When did the war end?|What is love?|"
    "How do I cook {x} soup?|"
    "How do you spell {x}?|What is the plural of {x}?|Is it going to rain tomorrow?|"
    "Who won the game?|"
    "What is the tallest mountain?|How far is the moon?|What is the price of {x}s?|"
    "Do you believe in {x}s?|"
    "Where can I buy {an}?|What is the difference between {an} and {bn}?|Translate {x} to French.|"
    "What do you think about politics?|Explain quantum physics.|What is the stock price today?|"
    "How do I learn to play the {x}?|Can {an} fly?|Can {an} swim?|Do {x}s sleep?|"
    "Is {an} bigger than {bn}?|"
    "Have you ever eaten {an}?|Have you ever seen {an}?|Do you own {an}?|Do you like {x}s?|"
    "Tell me about {country}.|Tell me about {x}s.|What can I do with {an}?|What is {an} made of?|"
    "Why do {x}s exist?|Where do {x}s live?|Who is Albert Einstein?|Who is {person}?|"
    "What did {person} do?|When was {person} born?|My dog is sick. What should I do?|"
    "I feel sad today.|"
    "I'm bored.|What is the news?|Give me some advice.|How do I get rich?|"
    "What should I eat tonight?|"
    "I bought {an} yesterday.|My friend has {an}.|I am hungry.|I like {x}s.|I saw {an} today.|"
    "There is {an} in my garden.|My favourite animal is the {x}.|What rhymes with {x}?|"
    "Solve x + {n} = {m}.|What is the square root of {n}?|How many days are in a year?|"
    "When is Christmas?|How do airplanes fly?|What is your opinion on {x}s?|Does {an} need water?|"
    "What is the largest {x}?|I once had {an}.|Are {x}s dangerous?|Do you know {person}?|"
    "How do I fix my {x}?|What's {n} + {m}?|{n} + {m} = ?|Is {n} a prime number?|"
    "Where was {person} born?"
).split("|")
_COUNTRIES = (
    "France Germany Spain Italy England Japan China India Brazil Canada Mexico Egypt Russia Norway "
    "Sweden Poland Kenya Peru Chile Greece Turkey Australia Texas London Paris Berlin Rome Tokyo"
).split()
_PERSONS = (
    "Napoleon", "Shakespeare", "Mozart", "Picasso", "Cleopatra", "Newton", "Goethe", "Elvis",
    "Gandhi", "Harry Potter", "Santa Claus", "the queen", "Leonardo", "Mickey Mouse",
    "Taylor Swift",
)  # fmt: skip
_TITLES = ("Hamlet", "Faust", "the Bible", "Moby Dick", "Romeo and Juliet", "Don Quixote")

_FOREIGN = (
    "Zeichne {de}.|Male mir {de}.|Bitte zeichne {de}.|Ich möchte {de} sehen.|Kannst du {de} malen?|"
    "Was ist das?|Guten Tag!|Wie geht es dir?|Danke schön.|Was siehst du auf dem Bild?|"
    "Wer bist du?|"
    "Wo ist {de}?|Wie viele sind es?|Welche Farbe hat der Kreis?|Hallo, wie heißt du?|"
    "Dessine {fr}.|Peux-tu dessiner {fr} ?|Je voudrais {fr}.|Bonjour !|Comment ça va ?|"
    "Qu'est-ce que c'est ?|"
    "Merci beaucoup.|Qui es-tu ?|Montre-moi {fr}.|Où est {fr} ?|Que vois-tu ?|"
    "S'il te plaît, dessine {fr}.|"
    "Dibuja {es}.|Por favor, dibuja {es}.|Quiero ver {es}.|¡Hola!|¿Cómo estás?|¿Qué es esto?|"
    "Gracias.|"
    "¿Quién eres?|¿Dónde está {es}?|Buenos días.|¿Puedes dibujar {es}?|¿De qué color es?|"
    "Disegna {it}.|Vorrei {it}.|Buongiorno!|Come stai?|Che cos'è?|Grazie mille.|Chi sei?|"
    "Puoi disegnare {it}?|"
    "Desenhe {pt}.|Bom dia!|Obrigado.|O que é isto?|Quem é você?|Teken {nl}.|Goedemorgen!|"
    "Wat is dit?|"
    "Dank je wel.|Rita {sv}.|Hej, hur mår du?|Narysuj kota.|Dzień dobry!|Co to jest?|"
    "Нарисуй кошку.|Привет!|"
    "Как дела?|Что это?|Спасибо.|"
    "画一只猫。|你好！|这是什么？|谢谢。|猫を描いて。|こんにちは。|"
    "これは何ですか？|"
    "ありがとう。|고양이를 그려 줘.|안녕하세요.|ارسم قطة.|مرحبا|צייר חתול.|שלום|बिल्ली बनाओ।|नमस्ते|"
    "Kedi çiz.|Merhaba!|Ζωγράφισε μια γάτα.|Γεια σου!|Piirrä kissa.|Hei, mitä kuuluu?|"
    "Desenează o pisică.|"
    "Nakresli kočku.|Vẽ một con mèo.|วาดแมว|สวัสดี|Намалюй кота.|Rajzolj egy macskát."
).split("|")
_FOREIGN_WORDS = {
    "de": "eine Katze|einen Hund|ein Haus|einen Baum|einen roten Kreis|zwei Katzen|das Auto|"
          "ein Schwein|"
          "einen Apfel|einen Fisch|die Sonne|einen blauen Stern",
    "fr": "un chat|un chien|une maison|un arbre|un cercle rouge|deux chats|la voiture|une pomme|"
          "un poisson|"
          "le soleil|une étoile bleue",
    "es": "un gato|un perro|una casa|un árbol|un círculo rojo|dos gatos|el coche|el sol|una flor",
    "it": "un gatto|un cane|una casa|un albero|un cerchio rosso|due gatti|una mela|il sole",
    "pt": "um gato|um cachorro|uma casa|uma árvore|um círculo vermelho|dois gatos|o sol",
    "nl": "een kat|een hond|een huis|een boom|een rode cirkel|twee katten|de zon",
    "sv": "en katt|en hund|ett hus|ett träd|en röd cirkel|två katter|solen",
}  # fmt: skip
_FOREIGN_LISTS = {code: words.split("|") for code, words in _FOREIGN_WORDS.items()}

_ONSETS = (
    "b c d f g h j k l m n p qu r s t v w y z bl br ch cl cr dr fl fr gl gr pl pr sh sk sl sm sn "
    "sp "
    "st str th tr tw wh zh kn squ vl"
).split()
_VOWELS = "a e i o u a e i o u oo ee ai ou ea oa y".split()
_CODAS = ["", "", "", *"b d g k l m n p r s t x z ck ng nk sh th rt ld nd mp zz ff lt rk".split()]


def made_up(rng: random.Random) -> str:
    """A word that means nothing: "blorf", "snibbet"."""
    word = "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for _ in range(rng.choice((1, 2, 2, 3)))
    )
    return word if len(word) > 3 else word + rng.choice(("ble", "tor", "nik", "oid"))


def unknown_thing(rng: random.Random) -> str:
    """A thing that it cannot draw."""
    return rng.choice(UNKNOWN) if rng.random() < 0.7 else made_up(rng)


def gibberish(rng: random.Random) -> str:
    """What means nothing."""
    draw = rng.random()
    if draw < 0.35:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return " ".join(
            "".join(rng.choice(letters) for _ in range(rng.randint(3, 9)))
            for _ in range(rng.randint(1, 3))
        )
    if draw < 0.5:
        return " ".join(made_up(rng) for _ in range(rng.randint(1, 4)))
    if draw < 0.65:
        return "".join(rng.choice("?!.,;:-_#*+~%&/()=@<>|^") for _ in range(rng.randint(1, 8)))
    if draw < 0.75:
        return str(rng.randint(5, 10**6))
    return rng.choice(
        (
            "?", "...", ".", "!", "???", "asdf", "asdfgh", "qwertz", "qwerty", "lol", "xd", "haha",
            "blah blah blah", "test", "testing", "abc", "foo bar", "la la la", "hmpf", "😀", "🙂🙂",
            "👍",
            "❤️", "1 2 3", "null", "undefined", "<image>", "</s>", "<|end|>", "<pad>",
            "SELECT * FROM x;",
            "the the the", "of and to", "because", "if then else", "very much so", "which",
            "and then", "brrr", "zzz", "mmm", "nope nope", "xyzzy", "lorem ipsum dolor",
        )
    )  # fmt: skip


def outside(rng: random.Random) -> str:
    """A question beyond its world."""
    names = [n for n in OBJECTS if n not in ("grapes", "corn", "cheese")]
    x, y = (
        rng.choice(UNKNOWN) if rng.random() < 0.5 else noun(rng.choice(names)) for _ in range(2)
    )
    return rng.choice(_OUTSIDE).format(
        country=rng.choice(_COUNTRIES), n=rng.randint(2, 99), m=rng.randint(2, 99), x=x, an=a(x),
        bn=a(y), title=rng.choice(_TITLES), person=rng.choice(_PERSONS),
    )  # fmt: skip


def foreign(rng: random.Random) -> str:
    """A request in a language that is not English."""
    words = {code: rng.choice(options) for code, options in _FOREIGN_LISTS.items()}
    return rng.choice(_FOREIGN).format(**words)


_WORDINGS = {intent: (wordings.split("|"), reply) for intent, (wordings, reply) in INTENTS.items()}


def intent(rng: random.Random, name: str | None = None) -> tuple[str, str, str]:
    """(intent, a wording, the reply)."""
    name = name or rng.choice(tuple(_WORDINGS))
    wordings, reply = _WORDINGS[name]
    return name, rng.choice(wordings), reply


def colour_reply(colour: str) -> str:
    """What is said to a colour that there is not."""
    return f"I don't have the colour {colour}. I have {COLOUR_LIST}."
