"""Makes statements about a number by rule: wrong ones, which deny, bound or change it, and harmless ones.

The lists are ours; none is taken from the verifier.
"""

from __future__ import annotations

from collections.abc import Iterator

WRAPPINGS = (
    "{}",
    r"\boxed{{{}}}",
    "<answer>{}</answer>",
    r"<answer>\boxed{{{}}}</answer>",
    "The answer is {}.",
    "#### {}",
    "**Answer:** {}",
    "答案：{}",
)
CHANGED_BEFORE = (
    "at least|at most|no more than|no less than|not more than|not less than|no fewer than|more "
    "than|less than|fewer than|"
    "greater than|larger than|smaller than|bigger than|higher than|lower than|strictly below|strictly above|over|under|"
    "beyond|just under|just over|almost but not|nearly but not|anything but|anything except|any number except|"
    "every number but|all but|other than|different from|not equal to|not|never|not exactly|half of|half|a third of|"
    "two thirds of|a quarter of|a tenth of|twice|thrice|double|triple|quadruple|minus|negative|the negative of|"
    "the opposite of|the reciprocal of|the inverse of|the square of|the cube of|the square root of|the cube root of|"
    "root|the factorial of|the logarithm of|the sine of|the sum of 1 and|the product of 2 and|the difference of 9 and|"
    "the quotient of 9 and|one more than|one less than|two more than|a multiple of|a factor of|a divisor of|"
    "the successor of|the predecessor of|the number after|the number before|the number of digits of|"
    "the number of divisors of|2 to the power of|2 raised to the|10 minus|10 plus|10 times|10 divided by|10 over|"
    "3 out of|20% of|between 1 and|either 1 or|maybe 1 or|perhaps 1 or|instead of|rather than|close to but above"
).split("|")
CHANGED_BEHIND = (
    "squared|cubed|factorial|doubled|tripled|halved|or more|or less|or fewer|or greater|or higher|or above|and above|"
    "and below|and up|and a half|and 1/2|plus 1|minus 1|plus something|times 2|times x|divided by 2|multiplied by 3|"
    "over 2|out of 8|per 8|in 9|to 9|through 9|or 9|or maybe 9|and 9|by 9|mod 7|in base 6|to the power of 2|"
    "choose 2|point 3|tenths|thirds|hundredths|millionths|halves|dozen|gross|hundred|thousand|"
    "million|billion|lakh|crore|"
    "less than the total|more than the total|short of the goal|is wrong|is incorrect|is not right|is false|"
    "is impossible|is not possible|is not the answer|would be wrong|cannot be right|was a mistake|isn't correct|"
    "if n is even|unless n is odd|when n is odd and 9 otherwise|(wrong)|(not really)|, which is wrong|, or perhaps 9"
).split("|")
FRAMES = ("{}", "it is {}", "x is {}", "the value is {}", "there are {}")
DENIED_FRAMES = (
    "it is not the case that it is {}|I doubt that it is {}|it is wrong that it is {}|the wrong answer is {}|"
    "an incorrect value is {}|a common mistake is to say {}|the false result is {}|it cannot be {}|it isn't {}|"
    "it could not be {}|it might be {}|no solution equals {}|neither root is {}|x does not "
    "equal {}|x != {}|x > {}|x < {}|"
    r"x \ge {}|x \ne {}|≠{}|>{}|it is unlikely that it is {}|nobody said {}"
).split("|")
CHINESE = (
    "小于{}|大于{}|不等于{}|不是{}|至少{}|至多{}|最多{}|最少{}|不超过{}|超过{}|不足{}|少于{}|多于{}|高于{}|低于{}|接近但小于{}|"
    "非{}|除了{}|可能是{}|也许是{}|负{}|根号{}|{}以上|{}以下|{}以内|{}左右|{}多|{}的平方|{}的立方|{}的一半|{}的倒数|{}的相反数|"
    "{}的阶乘|{}的两倍|{}分之一|{}或9|{}和9|{}到9|{}不对|{}是错的|{}不正确|{}除以2|{}乘以2|{}加1|{}减1|{}万|{}成|{}折|"
    "1到{}|介于1和{}之间|答案不是{}|答案至少是{}|答案小于{}|结果大于{}|不可能是{}|并非{}|错误的答案是{}|10除以{}|1与{}的和|2的{}次方"
).split("|")
HARMLESS = (
    "{}|just {}|simply {}|exactly {}|precisely {}|only {}|about {}|approximately {}|equal to {}|"
    "a total of {}|{} in total|"
    "{} altogether|{} pieces|{} different ways|{} ways|{} people|{} units|therefore {}|thus {}|"
    "hence {}|so {}|clearly {}|"
    "obviously {}|indeed {}|{}, as required|{} as shown above|{}, as desired|{} as expected|{}, since it fits|"
    "{} because it fits|{} (see step 3)|{} (see Theorem 3.2)|the value {}|the number {}|the "
    "value is {}|the number is {}|"
    "the result is {}|the solution is {}|the length is {}|the length of AB is {}|the area of the triangle is {}|"
    "the distance between A and B is {}|the sum of the roots is {}|the product of the roots is {}|the remainder is {}|"
    "the minimum value is {}|the maximum value is {}|the largest such number is {}|the greatest common divisor is {}|"
    "the least common multiple is {}|the smallest positive integer is {}|the square root is {}|half of the total is {}|"
    "twice the radius is {}|the other root is {}|the missing number is {}|the number of wrong answers is {}|"
    "the number of nonempty subsets is {}|the probability that neither occurs is {}|it is {}|it's {}|there are {}|"
    "there are {} of them|there are exactly {} such numbers|we get {}|we have {}|we find {}|we "
    "obtain x = {}|x must be {}|"
    "x has to be {}|x has to equal {}|x equals {}|x is {}|n is equal to {}|it takes {} hours|she needs {} hours|"
    "he has {} apples left|she pays {} dollars|she makes {} dollars every day|{} hours are needed|{} is the answer|"
    "{} is correct|{} is the only solution|{} works|x = {}|$x={}$|${}$|N = {}|a_3 = {}|S_{{10}}={}|f(2) = {}|AB = {}|"
    "m+n = {}|P(X=1) = {}|{} cm|{} square units|{} dollars|{} — done|Yes, {}|finally {}|the final value is {}|"
    "the answer we get is {}|my answer is {}|the correct value is {}|the desired sum is {}|the required number is {}|"
    "the total cost is {} dollars|the average speed is {} km/h|the price is {} dollars|the perimeter is {} cm|"
    "the integer {}|namely {}|that is {}|which is {}|{}. Done|and so it is {}|{} and we are "
    "done|this gives {}|that leaves {}|"
    "{}个|{}个苹果|共{}个|一共{}个|一共有{}个苹果|共有{}种不同的方法|约{}|大约{}|等于{}|答案是{}|答案为{}|结果是{}|所以{}|因此{}|"
    "x等于{}|x的值是{}|面积为{}|最大值为{}|最小值是{}|余数是{}|和为{}|积是{}|至少有一个的概率是{}|她每天赚{}美元|正好{}|恰好{}|故{}|"
    "{}元|{}厘米|{}小时|{}倍|总共是{}|可得{}|综上所述，共有{}种方法|两数之和为{}|{}岁|{}，因为成立|最后剩下{}个苹果|不同的取法共有{}种"
).split("|")


def wrong(number: str) -> Iterator[str]:
    """Yields statements that mention the number and do not state it."""
    for words in CHANGED_BEFORE:
        yield from (frame.format(f"{words} {number}") for frame in FRAMES[:3])
    for words in CHANGED_BEHIND:
        yield from (frame.format(f"{number} {words}") for frame in FRAMES[:4:2])
    yield from (frame.format(number) for frame in (*DENIED_FRAMES, *CHINESE))


def harmless(number: str) -> Iterator[str]:
    """Yields statements that state the number and nothing else."""
    yield from (frame.format(number) for frame in HARMLESS)
