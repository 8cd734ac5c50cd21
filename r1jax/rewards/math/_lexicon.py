"""Lists words that deny ("not"), bound ("at least"), hedge ("maybe") or change ("half") a number, and harmless words.

English words are in lower case. Chinese words are regular expressions, since Chinese has no spaces between words.
"""

from __future__ import annotations

import re

DENIALS = set(
    "not never neither nor cannot cant no none nothing nowhere without wrong incorrect "
    "incorrectly wrongly false falsely "
    "untrue invalid except excepting excluding exclude excludes excluded barring unlike unequal but besides instead "
    "rather other impossible mistake mistaken mistakenly error erroneous erroneously doubt "
    "doubtful unlikely deny denied "
    "disprove disproved disproven refute refuted reject rejected avoid avoids fail fails failed hardly scarcely barely "
    "anything everything anywhere far eliminated discarded extraneous void".split()
)
STRONG_DENIAL = re.compile(
    r"(?:\b(?:is|was|are|were|be|being|seems?|looks?|turns?\s+out)\s+(?:\w+ly\s+)?"
    r"(?:not|never|wrong|incorrect|false|untrue|invalid|impossible|mistaken|an?\s+(?:mistake|error)|ruled\s+out|"
    r"too\s+\w+|off\b)"
    r"|\b(?:isn|wasn|aren|weren|can|couldn|won|wouldn|doesn|don|didn)['’]?t\b|\bcannot\b|\b(?:can|does|do|did|will|would|could)\s+not\b)"
    r"|\b(?:fails|failed|contradicts)\b|不对|不是|不正确|不成立|不可能|错|有误",
    re.IGNORECASE,
)
BOUNDS = set(
    "least most less more fewer greater larger smaller bigger higher lower above below over "
    "under beyond exceed exceeds "
    "exceeding exceeded past between within outside inside among almost nearly upto minimally maximally limited "
    "up upward upwards downward downwards onward onwards short shy ranges ranging anywhere until till through thru "
    "than lesser longer shorter older younger heavier taller any every all some several many "
    "much few another exclusive inclusive tops".split()
)
OPERATIONS = set(
    "half halves halved halve double doubled doubles triple tripled triples quadruple quadrupled quintuple sextuple "
    "twice thrice squared square cubed cube root roots reciprocal inverse opposite negative "
    "minus plus times multiplied "
    "multiply divided divide divides added subtracted subtract increased decreased reduced "
    "raised power powers exponent "
    "factorial choose permute product sum difference quotient ratio mod modulo modulus "
    "remainder logarithm log ln lg exp "
    "digits digit factors divisors multiple multiples conjugate complement successor predecessor absolute percent "
    "percentage fraction third thirds quarter quarters fourth fourths tenth tenths out sine cosine tangent secant "
    "next previous prior following preceding after before neighbor neighbour counting add adding derivative integral "
    "antilog antilogarithm transpose floor ceiling rounded truncated sqrt sin cos tan cot sec csc arcsin arccos arctan "
    "away subtracting len length_of str int eval lambda import print return float sum_of dozen "
    "dozens gross score hundred thousand "
    "million billion trillion lakh lakhs crore crores imaginary hexadecimal octal binary base subfactorial "
    "primorial tetrated hyper factorials off kilo something odd thou grand myriad googol quadrillion quintillion "
    "nonillion percentile negated conjugated transposed backwards reversed repeating quartered".split()
)
ORDINALS = re.compile(
    r"(?:half|halves|thirds?|quarters?|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|\w+teen|\w+tie|hundred|thousand|"
    r"million|billion|trillion)ths?)"
)
SCALES = set("million billion trillion thousand hundred dozen".split())  # they count a number, see `_units.TIMES`
HEDGES = set("maybe perhaps possibly might could may either or alternatively supposedly allegedly guessing".split())
CONDITIONS = set(
    "if unless when whenever provided providing assuming suppose supposing except depending otherwise "
    "else while whereas".split()
)

LINKS = set(
    "is are was were be been being equals equal equaled equalled becomes became makes make made gives give gave giving "
    "yields yield yielding get gets getting got have has had having obtain obtains obtained obtaining find found finds "
    "totals totaling totalling totaled it's that's there's he's she's means pays pay paid costs cost needs need takes "
    "take took earns earn earned spends spent saves saved sells sold buys bought contains contain weighs weighed "
    "measures lasts follows conclude concludes shows says said left leaves remain remains holds "
    "increases decreases grows drops rises falls".split()
) - {"left"}
TO = set(
    "equal equals comes come came amounts amount adds add up sums simplifies simplify reduces reduce evaluates "
    "evaluate leads corresponds according works rounds boils down".split()
)  # "to" after these links
OF = set(
    "total value answer result amount cost price profit score speed distance length area volume height width "
    "average probability count number solution sum radius perimeter diameter mean median minimum maximum chance "
    "rate weight mass depth age time share gain loss population side sides set pair final grand".split()
)
FILLERS = set(
    "approximately about exactly roughly around approx circa ca answer answers the is a an us usd rs hk precisely just "
    "simply therefore thus hence so then finally now clearly obviously indeed actually altogether overall total of in "
    "fact value number result solution quantity figure amount integer to be equal must should exactly yes ok okay well "
    "we i it get find obtain have this that these those here there ans final correct right required desired requested "
    "sought namely specifically merely and roots are solutions values numbers point points constant prime whole "
    "natural positive real vector matrix interval set vertex focus center centre midpoint origin vertices foci pair "
    "ordered coordinates line parabola circle ellipse hyperbola function equation curve plane sphere triangle graph "
    "polynomial expression formula sequence domain range unique option choice our my your its quite truly surely "
    "certainly definitely probably likely only".split()
)
SUBJECTS = set(
    "so thus hence therefore then finally the a an she he it they we i you there this that these those each his her "
    "their our my your its in for at on by with from after when since because as let and also now here one".split()
)
REASONS = set("since because as due given using see where whereas by thanks considering".split())
AS = set(
    "shown required expected desired stated claimed given above before we the it follows needed wanted asked seen "
    "found computed calculated an our you can described mentioned noted promised derived".split()
)
BOUNDARIES = set("so thus hence therefore consequently accordingly namely which".split())

DENIALS_ZH = re.compile(r"不(?!同|一样|重复|重样|妨|难|断|超过)|非|没|無|无(?!论)|未|别(?!的)|除(?!以)|错|误|莫|否")
CHANGES_ZH = re.compile(
    r"以上|以下|以内|以外|超过|不足|至少|至多|最多|最少|最大不|大于|小于|多于|少于|高于|低于|介于|之间|接近|将近|几乎|近(?!似)|"
    r"可能|也许|或许|大概率|要么|或|还是|平方(?![千厘分毫米公])|立方(?![千厘分毫米公])|次方|根号|开方|平方根|倒数|相反数|阶乘|对数|负|"
    r"一半|半|加|减|乘|除以|分之|百分|余|模|取余|到|至|比|翻|倍的|的倍|两倍|三倍|约数|因数|倍数|绝对值|正弦|余弦|正切|之和|之差|之积|"
    r"的和|的差|的积|的商|多一|少一|之前|之后|下一个|上一个|前一个|后一个|位数|除|介乎|只要|如果|若|当|除非|左右|上下|起|成(?!立)|折|"
    r"亿|万|来(?!自)|千(?![克米瓦])|百|十|多(?![少种边])|几"
)
# a verb, and what stands behind it; an adverb before the verb may bound what follows
VERB_ZH = re.compile(r"^(.*)(等于|得到|得出|求得|约为|需要|是|为|得|有|共|需|即|赚|花|付)(.*)$", re.DOTALL)
BOUNDED_ZH = re.compile(
    r"(?:至少|至多|最多|最少|不|非|没|可能|也许|或许|大于|小于|多于|少于|高于|低于|超过|接近|几乎|将近|大概率|未必|不足)"
    r"(?:会|应该?|要|能|还)*$"
)
LINKS_ZH = re.compile(r"(?:[是为得有需共即:：]|等于|得到|得出|求得|约为|共有|一共|总共|答案)+$")
FILLERS_ZH = re.compile(
    r"(?:答案|结果|最终|所以|因此|一共|总共|大约|等于|人民币|综上|综上所述|故|则|那么|于是|从而|可得|可知|得到|得出|求得|正好|恰好|恰|"
    r"正好|总计|合计|总数|数值|面积|体积|长度|距离|概率|价格|其值|值|方程|解|根|最后|我们|只|仅|就|应该|应|本题|此题|该题|此时|"
    r"正确|选项|[共约有得即是为的第和有需该这那它]|分别|坐标|点|集合|区间|函数|直线|实数|整数|最大值|最小值)+"
)


CHANGES = DENIALS | BOUNDS | OPERATIONS | HEDGES | CONDITIONS
# behind a number these name what is counted, as in "3 roots", or a unit, as in "5 square units"
NOUNS = set(
    "all any some many several few following inside outside square sum product next digits digit factors divisors "
    "multiples roots powers pairs percentage other".split()
)
CHANGES_BEHIND = (CHANGES - NOUNS) | set("and point tens hundreds thousands by maximum minimum max th st nd rd".split())
# these stand behind a number in a sentence, not in the name of a unit
VERBS = set(
    "is are was were be being for wait yes true possible infinity undefined pi even odd prime guess k x to from "
    "with unknown both exactly".split()
)
# what may stand before the verb and deny what follows it
_CLAIM = r"(?:answer|value|result|choice|option|solution|number|guess|one|conclusion|reply|response|claim)"
_WRONG = r"(?:wrong|incorrect|false|mistaken|erroneous|invalid|untrue|bad)"
DENIED_CLAIM = re.compile(
    rf"\b{_WRONG}\s+(?:\w+\s+)?{_CLAIM}\b|\bnot\s+(?:the|my|an?)\s+(?:\w+\s+)?{_CLAIM}\s*(?::|$)"
    rf"|\b(?:doubt|deny|denies|disagree|disbelieve)\b|\b(?:{_WRONG}|impossible|unlikely|mistake|error|misconception|fallacy)\b"
    r"(?:.*)\b(?:that|to\s+(?:say|answer|think|claim|conclude|state|write|assume|believe|suppose|put|get))\b"
    r"|\b(?:not|\w+n['’]t)\b(?:\s+\w+){0,2}\s+(?:the\s+case|true|correct|right|so|think|believe|claim|sure|certain|mean|say)\b"
    r"|\bno\s+(?:way|case|chance|means|reason|sense)\b|^\W*(?:no|none|neither|nothing|nobody|nowhere)\b"
    r"|\b(?:rule[sd]?\s+out|far\s+from|anything\s+but|everything\s+but|instead\s+of|rather\s+than|other\s+than|"
    r"contrary\s+to|unless|perhaps|maybe|possibly|supposedly|allegedly)\b|\bmistake\s+is\b",
    re.IGNORECASE,
)
NEGATIONS = set("not never cannot cant neither nor hardly might could may no".split())
DENIED_CLAIM_ZH = re.compile(
    r"(?:不|非|没有?|未|别|勿)(?:一定|会|能|可能|应该?|可以|再)*(?:是|为|等于|得|叫)*$|可能(?:会)?(?:是|为|等于)?$"
    r"|错误的?(?:答案|结果|选项|结论|说法)|不对|不正确|误以为|误认为|怀疑|否认|不认为|不成立|不可能|并非|并不|除了|也许|或许|如果|除非"
)


def is_ordinal(word: str) -> bool:
    """Returns True for a word that names the denominator of a fraction, such as "thirds" or "millionths"."""
    return bool(ORDINALS.fullmatch(word))
