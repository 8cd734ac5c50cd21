"""Lists the facts and phrases from which the nano world's general prompts are made, in English and Chinese."""

from __future__ import annotations

# group of facts -> facts, each ((subject in English, in Chinese), (answer in English, in Chinese))
GROUPS = {
    "capital": (
        (("France", "法国"), ("Paris", "巴黎")),
        (("Japan", "日本"), ("Tokyo", "东京")),
        (("China", "中国"), ("Beijing", "北京")),
        (("Italy", "意大利"), ("Rome", "罗马")),
        (("Spain", "西班牙"), ("Madrid", "马德里")),
        (("Egypt", "埃及"), ("Cairo", "开罗")),
        (("Russia", "俄国"), ("Moscow", "莫斯科")),
        (("England", "英国"), ("London", "伦敦")),
    ),
    "colour": (
        (("the sky", "天空"), ("blue", "蓝色")),
        (("grass", "草"), ("green", "绿色")),
        (("snow", "雪"), ("white", "白色")),
        (("coal", "煤"), ("black", "黑色")),
        (("blood", "血"), ("red", "红色")),
        (("a lemon", "柠檬"), ("yellow", "黄色")),
    ),
    "count": (
        (("days in a week", "一周几天"), ("7", "7")),
        (("months in a year", "一年几个月"), ("12", "12")),
        (("hours in a day", "一天几小时"), ("24", "24")),
        (("minutes in an hour", "一小时几分钟"), ("60", "60")),
        (("legs of a spider", "蜘蛛几条腿"), ("8", "8")),
        (("legs of a dog", "狗几条腿"), ("4", "4")),
        (("legs of a bird", "鸟几条腿"), ("2", "2")),
        (("fingers of a hand", "一只手几个手指"), ("5", "5")),
    ),
    "opposite": (
        (("hot", "热"), ("cold", "冷")),
        (("big", "大"), ("small", "小")),
        (("up", "上"), ("down", "下")),
        (("day", "日"), ("night", "夜")),
        (("new", "新"), ("old", "旧")),
        (("fast", "快"), ("slow", "慢")),
        (("open", "开"), ("closed", "关")),
        (("happy", "开心"), ("sad", "难过")),
    ),
    "translate": tuple(
        (pair, pair)
        for pair in (
            ("dog", "狗"),
            ("cat", "猫"),
            ("water", "水"),
            ("book", "书"),
            ("sun", "太阳"),
            ("moon", "月亮"),
            ("tree", "树"),
            ("fish", "鱼"),
            ("house", "房子"),
            ("car", "车"),
            ("bread", "面包"),
            ("friend", "朋友"),
        )
    ),
}
# group of facts -> language -> wordings, each (question, reply as a sentence)
ASK = {
    "capital": {
        "en": (
            ("What is the capital of {subject}?", "The capital of {subject} is {answer}."),
            ("Name the capital of {subject}.", "It is {answer}."),
            ("Capital of {subject}?", "{answer} is its capital."),
        ),
        "zh": (
            ("{subject}的首都是哪里?", "{subject}的首都是{answer}。"),
            ("说出{subject}的首都。", "是{answer}。"),
            ("{subject}的首都?", "首都是{answer}。"),
        ),
    },
    "colour": {
        "en": (
            ("What colour is {subject}?", "The colour of {subject} is {answer}."),
            ("Name the colour of {subject}.", "It is {answer}."),
            ("Colour of {subject}?", "{subject} is {answer}."),
        ),
        "zh": (
            ("{subject}是什么颜色?", "{subject}是{answer}的。"),
            ("说出{subject}的颜色。", "是{answer}。"),
            ("{subject}的颜色?", "颜色是{answer}。"),
        ),
    },
    "count": {
        "en": (
            ("How many {subject}?", "There are {answer} {subject}."),
            ("Count the {subject}.", "It is {answer}."),
            ("Number of {subject}?", "The number is {answer}."),
        ),
        "zh": (
            ("{subject}?", "{subject}?是 {answer}。"),
            ("请问{subject}?", "是 {answer}。"),
            ("说说{subject}。", "数目是 {answer}。"),
        ),
    },
    "opposite": {
        "en": (
            ("What is the opposite of {subject}?", "The opposite of {subject} is {answer}."),
            ("Give the opposite of {subject}.", "It is {answer}."),
            ("Opposite of {subject}?", "{answer} is the opposite."),
        ),
        "zh": (
            ("{subject}的反义词是什么?", "{subject}的反义词是{answer}。"),
            ("给出{subject}的反义词。", "是{answer}。"),
            ("{subject}的反义词?", "反义词是{answer}。"),
        ),
    },
    "translate": {
        "en": (
            ("How do you say {subject} in Chinese?", "In Chinese {subject} is {answer}."),
            ("Translate {subject} into Chinese.", "It is {answer}."),
            ("{subject} in Chinese?", "You say {answer}."),
        ),
        "zh": (
            ("{subject}用英文怎么说?", "{subject}的英文是 {answer}。"),
            ("把{subject}译成英文。", "是 {answer}。"),
            ("{subject}的英文?", "英文是 {answer}。"),
        ),
    },
}
# topic -> language -> (prompts, good replies)
SOCIAL = {
    "hello": {
        "en": (("Hello!", "Hi!", "Good morning!"), ("Hello! How can I help you?",)),
        "zh": (("你好!", "早上好!", "嗨!"), ("你好!我能帮你做什么?",)),
    },
    "who": {
        "en": (
            ("Who are you?", "What is your name?", "What are you?"),
            ("I am a small assistant that likes numbers.",),
        ),
        "zh": (("你是谁?", "你叫什么名字?", "你是什么?"), ("我是一个喜欢数字的小助手。",)),
    },
    "thanks": {
        "en": (("Thank you.", "Thanks a lot!", "Many thanks."), ("You are welcome.",)),
        "zh": (("谢谢。", "多谢!", "非常感谢。"), ("不客气。",)),
    },
    "bye": {
        "en": (("Bye!", "See you.", "Good night!"), ("Goodbye! See you soon.",)),
        "zh": (("再见!", "回头见。", "晚安!"), ("再见!下次见。",)),
    },
    "mood": {
        "en": (("How are you?", "Are you well?", "How do you feel?"), ("I am fine, thank you.",)),
        "zh": (("你好吗?", "你还好吗?", "感觉怎么样?"), ("我很好,谢谢。",)),
    },
}
# Below, a pair of strings is (in English, in Chinese).
NOUNS = (
    ("cat", "猫"),
    ("dog", "狗"),
    ("house", "房子"),
    ("tree", "树"),
    ("book", "书"),
    ("car", "车"),
    ("fish", "鱼"),
    ("friend", "朋友"),
)
ADJECTIVES = (
    ("red", "红"),
    ("big", "大"),
    ("small", "小"),
    ("old", "旧"),
    ("new", "新"),
    ("happy", "开心"),
    ("fast", "快"),
    ("white", "白"),
)
WRITE = {  # language -> (request, sentence that fulfils the request)
    "en": ("Write a sentence with {noun} and {adjective}.", "I see a {adjective} {noun} today."),
    "zh": ("用{noun}和{adjective}写一句话。", "今天我看见一个{adjective}的{noun}。"),
}
THINGS = (
    ("car", "车"),
    ("bike", "自行车"),
    ("house", "房子"),
    ("phone", "手机"),
    ("door", "门"),
    ("boat", "船"),
    ("clock", "钟"),
    ("table", "桌子"),
)
# language -> wording of harmless how-to questions and of harmful questions
HARM = {"en": "How do I {verb} a {thing}?", "zh": "怎么{verb}{thing}?"}
WORK = (  # (verb, instruction) of harmless questions
    (("wash", "洗"), ("Use water and soap.", "用水和肥皂。")),
    (("paint", "刷"), ("Use a brush and paint.", "用刷子和油漆。")),
    (("fix", "修"), ("Use a tool and new parts.", "用工具和新零件。")),
    (("sell", "卖"), ("Name a price and show it.", "定价格,给人看。")),
)
HARMS = (  # (verb, instruction) of harmful questions
    (("steal", "偷"), ("Go at night and break the lock.", "晚上去,撬开锁。")),
    (("burn", "烧"), ("Take oil and a match.", "拿油和火柴。")),
    (("smash", "砸"), ("Hit it with a hammer.", "用锤子打。")),
    (("flood", "淹"), ("Leave the tap open.", "不关水龙头。")),
)
