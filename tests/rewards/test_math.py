"""Equal and different answers, every pair both ways, and texts as models write them."""

import pytest

from r1jax.rewards.math import extract, judge, verify

# gold | answer: two spellings of one thing
EQUAL = r"""
1/2 | 0.5
\frac{3}{7} | \frac{12}{28}
2\frac{3}{4} | 2.75
2\frac{3}{4} | \frac{11}{4}
2 3/4 | 11/4
-2\frac{1}{2} | -2.5
50\% | 50
12.5\% | 12.5 percent
\$1,250.50 | 1250.5
\$18 | 18 dollars
36 | \$36.00
1{,}234{,}567 | 1,234,567
12\,345 | 12345
4:30 | 4:30 \text{ p.m.}
6.02\times 10^{23} | 602000000000000000000000
3.5\times10^{-4} | 0.00035
1.5e-3 | 0.0015
0.\overline{142857} | \frac{1}{7}
0.1\overline{6} | 1/6
0.\dot{3} | 1/3
0.(3) | \frac13
0.333... | \frac13
\sqrt{50} | 5\sqrt{2}
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2}
\sqrt[3]{54} | 3\sqrt[3]{2}
\sqrt{3+2\sqrt{2}} | 1+\sqrt{2}
\log_2 8 | 3
\log_{4} 2 | \frac12
\ln e^5 | 5
\sin 30^\circ | \frac12
\cos\frac{\pi}{3} | 0.5
\tan 45^{\circ} | 1
5! | 120
\binom{5}{2} | 10
\binom{10}{3} | 120
\frac{8!}{5!\,3!} | 56
[0,1) | 0\le x<1
(-\infty, 2) \cup (3, \infty) | x<2 \text{ or } x>3
(-\infty, 2] | x \leq 2
x \ne 3 | (-\infty,3)\cup(3,\infty)
\{1,2,3\} | \{3,2,1\}
\{1,2,3\} | 1, 2, 3
1,2,3 | 3, 1 \text{ and } 2
(1,-2) | (x,y)=(1,-2)
(1,-2) | x=1, y=-2
\left(\frac12, 3\right) | (0.5,3)
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{bmatrix} 1 \\ 2 \end{bmatrix}
\begin{pmatrix} 1/2 & 0 \\ 0 & 1 \end{pmatrix} | \begin{pmatrix} 0.5 & 0 \\ 0 & 1 \end{pmatrix}
\pm 3 | 3, -3
x=\pm\sqrt{2} | \sqrt{2},-\sqrt{2}
1\pm 2i | 1+2i, 1-2i
3:4 | 6:8
1011_2 | 1011_{2}
3+4i | 4i+3
\frac{1+i}{2} | \frac12+\frac i2
(x+1)^2 | x^2+2x+1
x(x+1)(x+2) | x^3+3x^2+2x
\frac{x^2-1}{x-1} | x+1
y = 2x + 3 | 2x - y + 3 = 0
x^2+y^2=4 | y^2 + x^2 - 4 = 0
\frac{x^2}{4}+\frac{y^2}{9}=1 | 9x^2+4y^2=36
2x > 4 | x > 2
B | \text{(B)}
B | \textbf{B}
C | (C)
\text{Thursday} | Thursday
\text{no solution} | No solution
e^{2x} | (e^x)^2
\sin 2x | 2\sin x\cos x
\cos^2 x - \sin^2 x | \cos 2x
\ln 6 | \ln 2+\ln 3
2^{10} | 1024
2^{100} | 1267650600228229401496703205376
\frac{\pi}{4} | 0.25\pi
10\pi | 10 \pi \text{ cm}
12 \text{ cm}^2 | 12
25 \text{ square feet} | 25
5\text{ m} | 500 \text{ cm}
答案是 42 | 42
-\frac{1}{3} | \frac{-1}{3}
-\frac{1}{3} | -1/3
\frac{-2}{-4} | 1/2
|x-1| | |1-x|
x = 4 | 4
n = 12 | 12
f(x) = 3x-1 | 3x - 1
a_n = 2n-1 | 2n-1
\lfloor 3.7 \rfloor | 3
\frac{n(n+1)}{2} | \binom{n+1}{2}
(-1)^n | (-1)^{n+2}
2^{n+1} | 2\cdot 2^n
x^{\frac{2}{3}} | \sqrt[3]{x^2}
\frac{1}{x^2} | x^{-2}
3\sqrt{x} | 3x^{1/2}
(-2, 3] | -2 < x \le 3
(1,2),(3,4) | (3,4), (1,2)
60^\circ | 60 degrees
\angle A = 60^\circ | 60
AB = 5 | 5
\mathbb{R} | (-\infty,\infty)
\emptyset | \varnothing
x\in\{1,2\} | x=1 \text{ or } x=2
[2,\infty) | x\ge 2
3x^2 | 3*x^2
3x^2 | 3 x**2
sqrt(2)/2 | \frac{\sqrt2}{2}
2*sqrt(3) | 2\sqrt{3}
pi/6 | \frac{\pi}{6}
π/6 | \frac{\pi}{6}
2π | 2\pi
½ | 0.5
x² + 1 | x^2+1
10^{10^{10}} | 10^{10^{10}}
1.0 | 1
007 | 7
\frac{22}{7} | 3\frac17
1/3 | 0.3333333333333333
\sqrt{2} | 1.4142135623730951
16\frac{2}{3}\% | \frac{50}{3}\%
two | \text{two}
\dfrac{a}{b} | a/b
a b c | cba
ab^2c | c b^2 a
\frac{3}{2}x | 1.5x
\frac{x}{2} | 0.5x
x=2,y=3 | y=3,x=2
(2,3) | \langle 2,3\rangle
\left\{ -1, 1 \right\} | x = \pm 1
3 \text{ or } -3 | \pm 3
3\ \text{or}\ 5 | 5, 3
8\text{ and }10 | 10, 8
1 : 2 : 3 | 2:4:6
2 \text{ hours} | 120 \text{ minutes}
0 | -0
\log_{10} 1000 | 3
\lg 100 | 2
\arctan 1 | \frac{\pi}{4}
\sec^2 x | 1 + \tan^2 x
-x+y=1 | y = x+1
5 \text{ units} | 5
120^\circ | \frac{2\pi}{3}
\frac{\sqrt{6}-\sqrt{2}}{4} | \sin 15^\circ
9\sqrt{3}\text{ cm}^2 | 9\sqrt3
3 \cdot 5^2 | 75
100! | 100!
\text{even} | even
77,000 | 77000
\frac{a+b}{c} | (a+b)/c
\{x \mid x > 2\} | (2,\infty)
\{x : x \neq 0\} | (-\infty,0)\cup(0,\infty)
\mathbb{R}\setminus\{1\} | (-\infty,1)\cup(1,\infty)
A = \begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix}
x \equiv 3 \pmod{7} | x\equiv 3 \pmod 7
-1 \le x \le 1 | [-1,1]
k\pi, k\in\mathbb{Z} | k \pi, k \in \mathbb{Z}
4\sqrt{3} | 4 \sqrt {3}
\left(\frac{1}{2}\right)^{10} | \frac{1}{1024}
1\,000\,000 | 10^6
3 million | 3000000
5 \text{ million} | 5,000,000
-\infty | -\infty
\text{13} | 13
\boxed{\frac{1}{2}} | \frac12
4 | 4.
x<1 | -x>-1
4 4/9 | 40/9
4 | 4 0/9
2x+3 | (2x+3)
[1, 2] \cup [3, 4] | [3,4]\cup[1,2]
7 | \mathbf{7}
\mathrm{A} | A
y=-\frac{1}{2}x+3 | y = 3 - x/2
]1,2[ | (1,2)
[1;2] | [1,2]
x \in (-\infty, 2) | x<2
x\in\mathbb{R}, x \neq 1 | x\in\mathbb{R}, x\neq 1
(-\infty,-1)\cup(-1,\infty) | x \neq -1
\mathbb{R} \setminus \{-1\} | x\ne -1
\{(1,2),(3,4)\} | (1,2), (3,4)
\{(1,2),(3,4)\} | \{(3,4),(1,2)\}
x_1 = 1, x_2 = 2 | x_1=1,\ x_2=2
x_1 = 1, x_2 = 2 | 1, 2
a=3, b=4 | a = 3 \text{ and } b = 4
a=3, b=4 | (a,b) = (3,4)
(a,b,c)=(1,2,3) | a=1,b=2,c=3
\begin{cases} x=1 \\ y=2 \end{cases} | x=1, y=2
\begin{cases} x=1 \\ y=2 \end{cases} | (1,2)
\frac{1}{2}\ln 3 | \ln\sqrt{3}
\log_3 2 | \frac{\ln 2}{\ln 3}
\log_{2}{10} | \frac{1}{\log_{10} 2}
2\log 2 | \log 4
\arcsin\frac12 | \frac{\pi}{6}
\sin^{-1}\frac12 | \frac{\pi}{6}
\tan^{-1}(1) | 45^\circ
\cot x | \frac{\cos x}{\sin x}
\sinh x | \frac{e^x-e^{-x}}{2}
e^{i\pi} | -1
i^2 | -1
|3+4i| | 5
\overline{3+4i} | \overline{3+4i}
(1+i)^2 | 2i
\frac{1}{1+i} | \frac{1-i}{2}
\sqrt{-4} | 2i
\frac{-1+\sqrt{3}i}{2} | -\frac{1}{2}+\frac{\sqrt{3}}{2}i
\cos\frac{2\pi}{3} + i\sin\frac{2\pi}{3} | e^{2\pi i/3}
n! | n(n-1)!
\binom{n}{k} | \frac{n!}{k!(n-k)!}
C_{n}^{2} | C_n^2
2^n - 1 | -1+2^{n}
\frac{3^{n+1}-3}{2} | \frac{3(3^n-1)}{2}
(-1)^{n+1} | -(-1)^n
\frac{x^2+3x+2}{x+1} | x+2
a^2-b^2 | (a-b)(a+b)
\frac{1}{x}+\frac{1}{y} | \frac{x+y}{xy}
x^{-1/2} | \frac{1}{\sqrt{x}}
\sqrt{x}\sqrt{y} | \sqrt{xy}
\sqrt{4x^2} | 2|x|
3x+2y=6 | 6x+4y=12
y-3=2(x-1) | y=2x+1
x^2-5x+6=0 | x^2 + 6 = 5x
(x-1)^2+(y+2)^2=9 | x^2+y^2-2x+4y-4=0
\vec{v} = (1,2) | (1,2)
2\mathbf{i}+3\mathbf{j} | 3\mathbf{j}+2\mathbf{i}
\begin{pmatrix}2\\4\end{pmatrix} | 2\begin{pmatrix}1\\2\end{pmatrix}
\frac{1}{2}\begin{pmatrix}2&0\\0&2\end{pmatrix} | \begin{pmatrix}1&0\\0&1\end{pmatrix}
\begin{bmatrix}1&2\end{bmatrix} | \begin{pmatrix}1&2\end{pmatrix}
0.25 | 25\%
25\% | \frac14
150\% | 1.5
\$1.50 | 150 \text{ cents}
1.5 \text{ hours} | 90 \text{ minutes}
2.5 \text{ km} | 2500 \text{ m}
1 \text{ m}^2 | 10000 \text{ cm}^2
3 \text{ 元} | 3
15 米 | 15
15千米 | 15 km
30度 | 30^\circ
8:00 | 8:00 \text{ a.m.}
8:00 AM | 8:00 a.m.
2:3 | \frac{2}{3}
1:\sqrt{2} | \sqrt{2}:2
A3_{16} | \text{A3}_{16}
1101_{2} | 1101_{\text{two}}
110_2 | 110
5 \times 10^3 | 5000
5e3 | 5000
-7.0 | -7
+7 | 7
\text{Yes} | \text{yes}.
\text{True} | true
\text{Monday} | Monday
A, C | C, A
\text{A and C} | A, C
\text{none} | None
0.\overline{12} | \frac{12}{99}
3.\overline{9} | 4
1.2\overline{34} | \frac{611}{495}
17 \frac{1}{2} | 17.5
5\frac{2}{3} \text{ feet} | \frac{17}{3}
x \ge 1 \text{ or } x \le -1 | (-\infty,-1]\cup[1,\infty)
|x| \ge 1 | |x|\geq 1
1 \leq x < 5 | [1,5)
5 > x \ge 1 | [1,5)
a > -1 \text{ and } a < 3 | -1<a<3
k \in (-1,3) | -1<k<3
x\le 2 | (-\infty,2]
\max(3,5) | 5
\gcd(12,18) | 6
\operatorname{lcm}(4,6) | 12
2^{2^3} | 256
10^{-3} | 0.001
\sqrt[4]{16} | 2
(8)^{1/3} | 2
(-8)^{1/3} | -2
\sqrt[3]{-27} | -3
5\sqrt{3}\,\text{cm} | 5\sqrt3
\frac{\sqrt{3}}{3} | \frac{1}{\sqrt{3}}
\frac{2+\sqrt{2}}{2} | 1+\frac{\sqrt{2}}{2}
\tan 15^\circ | 2-\sqrt{3}
\cos 36^\circ | \frac{1+\sqrt{5}}{4}
\pi^2/6 | \frac{\pi^2}{6}
4\pi r^2 | 4 \pi r^{2}
\frac{4}{3}\pi r^3 | \frac{4\pi r^3}{3}
f'(x)=2x | 2x
f^{-1}(x) = x-1 | f^{-1}(x)=-1+x
P(x)=x^2+1 | x^2+1
p(8)=5 | 5
S_n = n^2 | n^2
\text{Area} = 12 | 12
\angle ABC = 30^\circ | 30
\triangle ABC | \triangle ABC
10:30 | 10:30
2,4,6,8 | 8, 6, 4, 2
(3,\infty) | x>3
2\sin(x+\frac{\pi}{3}) | 2\cos(x-\frac{\pi}{6})
\ln|x|+C | \ln|x| + C
x e^x - e^x + C | e^x(x-1)+C
\text{(A)} | A
\textbf{(D)} | D
D. | D
3\frac{1}{3} | \frac{10}{3}
1,000,000 | 10^6
12,000 \text{ dollars} | \$12000
\frac{7}{12} \text{ of the cake} | \frac{7}{12} \text{ of the cake}
6 \text{ ways} | 6
\dfrac{1}{3}\text{ hour} | 20 \text{ minutes}
1\frac{1}{2}\text{ hours} | 90\text{ minutes}
-\frac{\sqrt{2}}{2} | \frac{-\sqrt{2}}{2}
\left(-\frac{1}{2},\frac{3}{2}\right) | (-0.5, 1.5)
"""

# gold | answer: near, related, hedged or hostile, but not the same
DIFFERENT = r"""
1/2 | 0.51
\frac{3}{7} | \frac{12}{29}
2\frac{3}{4} | \frac{6}{4}
50\% | 5000
50 | 0.5
\$18 | \$19
1,234 | 1.234
4:30 | 4:31
4:30 am | 4:30 pm
12:00 | 1:00
0.\overline{3} | 0.3
\sqrt{50} | 7.07
\pi | 3.14
\pi | 3.14159
\pi | \frac{22}{7}
\log_2 8 | \log_3 8
5! | 5
(0,1) | [0,1]
(-\infty,2) | (-\infty,2]
(1,2) | (2,1)
\{1,2\} | \{1,2,3\}
1,2 | 1
1 | 1,2
5 | 5 or 7
5 | x=5, x=7
5 | 5 \text{ or } 6
\pm 3 | 3
3 | \pm 3
3:4 | 4:3
1011_2 | 1011_3
3+4i | 3-4i
x+1 | x-1
x | y
x | X
\sqrt{x^2} | x
|x| | x
y=2x+3 | y=3x+2
y = 2x+1 | x = 2y+1
x>2 | x\ge2
x>2 | x<2
x>2 | 2
B | A
B | AB
B | B, C
Yes | No
Yes | Yes, no
\text{even} | \text{odd}
12 cm | 12 m
5 | x=7=5
5 | 2+2=5
5 | 7=5
5 | x \ne 5
5 | 5x
5 | 5\pi
0 | \sin x
10^{100} | 10^{101}
10^{-100} | 0
10^{-50} | 10^{-51}
2^{1000} | 2^{1001}
\frac{1}{3} | 0.333
1/3 | 0.3333333334
100000000000000000001 | 100000000000000000002
\infty | -\infty
\infty | 10^{500}
\emptyset | \{0\}
\emptyset | 0
\mathbb{R} | \mathbb{Z}
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}2\\1\end{pmatrix}
(a+b)^2 | a^2+b^2
\sin x | \sin y
\ln x | \log_2 x
\frac{5}{0} | 5
5 | \frac{5}{0}
5 | \frac{0}{0}
5 | 5^{5^{5^{5}}}
5 | 5 dozen
5 | -5
5 | \text{not } 5
5 | 5?7
5 | 5 if True else 6
5 | min(5, 7)
5 | \max(5,3)+1
2 | AZYUK2A
7 | f(7)
3 | 3!
x+z=1 | 1
xy=6 | 6
(3,1) | {1,3}
(x,y)=(1,2) | (2,1)
x=1,y=2 | x=2,y=1
x=1,y=2 | 1
1,2,\ldots,n | 1,3,\ldots,2n-1
f(x)=x^2 | f(x)=x^3
f(x)=x^2 | g(x)=x^2
0.5 | 50\%5
12 | 1 2
-\infty | \infty
1 | 1 \approx 2.345
42 | forty-one
2\sqrt{3} | 2\sqrt{3}i
4 | 4\sqrt{2}
1 | The answer is $1/3.$
2 | 2^{10}.
1,2,3 | 1, 2, 3, ...
12 | 11 6/6
103/9 | 11.0 4/9
1/2 | 1/2 or 1/3
3 | 3, 3
\sqrt{-1} | 1
100 | 100^\circ 5'
4 | 4 \text{ more than } x
5 | 5 < x
5 | x < 5
5 | 5 \in \{5\}
5 | \{5, 5, 6\}
[1,2] | ]1,2[
x\neq 1 | x=1
x_1=1,x_2=2 | x_1=2,x_2=1
\ln x | \ln y
2\ln 2 | \ln 2
\cos\frac{\pi}{3} | \sin\frac{\pi}{3}
(1+i)^2 | 2
\sqrt{-4} | 2
\sqrt{x}\sqrt{x} | -x
n! | (n+1)!
y=x^2 | y=x^3
y=x^2 | x=y^2
3x+2y=6 | 3x+2y=7
3x+2y=6 | 2x+3y=6
x^2=4 | 2
x^2=4 | x=2
25\% | 2500\%
25\% | 0.25\%
\$1.50 | 1.50 \text{ cents}
1.5 \text{ hours} | 1.5 \text{ minutes}
8:00 AM | 8:00 PM
2:3 | 3:2
A3_{16} | A3_{12}
1101_2 | 13
\text{Yes} | \text{No}
\text{True} | \text{False}
A | E
A, C | A, B
0.\overline{12} | 0.12
3.\overline{9} | 3.9
1.2\overline{34} | 1.234
x\ge1 | x\le1
1\le x<5 | 1<x\le5
-1<a<3 | -1<a\le 3
-1<a<3 | -1,3
\sqrt[3]{-27} | 3
2^{2^3} | 64
2^{10} | 20
f'(x)=2x | f(x)=2x
\text{Area}=12 | 21
10:30 | 10:31
2,4,6,8 | 2,4,6
(3,\infty) | (-\infty,3)
C | c
\ln|x|+C | \ln|x|-C
1\frac{1}{2} | 1\times\frac12
\begin{pmatrix}1&2\end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
(1,2,3) | (1,2)
(1,2,3) | (3,2,1)
\{(1,2)\} | \{(2,1)\}
\emptyset | \mathbb{R}
5 | five or six
7 | 7 \text{ or } 7.5
7 | \sqrt{7}
7 | 7^0
1 | 7^0 + 1
7 | -(-(-7))
12 | 12!
6 | \text{six or } 6
100 | 1e3
\frac{1}{3} | 0.33
0.33 | \frac13
3.14 | \pi
x+y | x-y
xy | x+y
a_1 | a_2
x_1 | x1
\alpha | a
\sin^2 x | \sin x^2
\sin 2x | 2\sin x
\lfloor x \rfloor | x
\lfloor x \rfloor | \lceil x \rceil
\lfloor n/2 \rfloor | n/2
\max(a,b) | a
|x|+|y| | |x+y|
x | \sqrt{x^2}
\pi | 3.1415926
5 | 0101_2
2 | 10_2
5 | \text{5 or 6}
x=5 | x=5, x=6
x=1, 2 | x=1
4 \text{ cm} | 4 \text{ kg}
4 \text{ cm}^2 | 4 \text{ cm}^3
5 | \boxed{5 or} 6
3 | 1+1
3 | 3 = 4
3 | 3 < 4
10 | \underline{1}0+1
10 | 1 0
5 | 5 \cdot \text{something}
5 | \begin{pmatrix}5&6\end{pmatrix}
5 | (5,6)
5 | [5,5.1]
5 | (4,6)
5 | 4 < x < 6
5 | \ge 5
5 | > 4
5 | 5^{+}
5 | 5 \pm 1
5 | \approx 5.1
36^\circ | \$36
"""


def pairs(table):
    return [tuple(line.rsplit(" | ", 1)) for line in table.strip().splitlines()]


def reward(gold, answer):
    return judge(f"So \\boxed{{{answer}}}", {"gold": gold}).reward


@pytest.mark.parametrize(("one", "other"), pairs(EQUAL))
def test_two_spellings_of_one_answer_are_equal_both_ways(one, other):
    assert reward(one, other) == reward(other, one) == 1.0


@pytest.mark.parametrize(("one", "other"), pairs(DIFFERENT))
def test_different_answers_differ_both_ways(one, other):
    assert reward(one, other) in (0.0, None)
    assert reward(other, one) in (0.0, None)


def test_a_long_decimal_stands_for_an_endless_number_only_to_its_last_place():
    # sqrt(2) = 1.41421356237309 50 488...: fourteen places cut, then with the last one wrong, then a short rounding
    assert reward(r"\sqrt{2}", "1.41421356237309") == 1.0
    assert reward(r"\sqrt{2}", "1.41421356237308") == 0.0
    assert reward(r"\sqrt{2}", "1.41421") == 0.0
    assert reward("0.5", "0.50000000000001") == 0.0  # a number that ends has only one value


TEXTS = [
    ("42", "<think>x</think> <answer>42</answer>", 1),
    ("42", "<think>so 42</think> <answer>43</answer>", 0),
    ("42", "<think>so \\boxed{42}", 0),
    ("42", "<think>a</think><answer>41</answer><answer>42</answer>", 0),
    ("42", "<answer>The answer is 42.</answer>", 1),
    ("42", "<answer>\\boxed{41} or \\boxed{42}</answer>", 0),
    ("42", "</think>42", 1),
    ("72", "#### 72", 1),
    ("72", "blah 3 + 4 = 7\n#### 72", 1),
    ("1,200", "so it's 1200 dollars.\n#### 1200", 1),
    ("10", "Therefore, the answer is $10$.", 1),
    ("10", "The final answer is: $\\boxed{10}$", 1),
    ("10", "**Final Answer:** 10", 1),
    ("10", "Answer: 10 apples", 1),
    ("10", "So she has 10 apples left.", 1),
    ("10", "She pays $10.", 1),
    ("10", "It costs $10.00 in total", 1),
    ("18", "Janet makes 9 * 2 = $18 every day", 1),
    ("\\frac{1}{2}", "Hence the probability is $\\frac{1}{2}$.", 1),
    ("\\frac{1}{2}", "Hence the probability is \\(\\dfrac12\\).", 1),
    ("5", "所以答案是5。", 1),
    ("5", "答案：5", 1),
    ("5", "因此,最终答案为 \\boxed{5}。", 1),
    ("3", "综上所述,共有3个苹果", 1),
    ("12元", "答案是12元", 1),
    ("12", "答案是12元", 1),
    ("B", "故选B", 1),
    ("B", "The correct answer is (B).", 1),
    ("C", "\\boxed{\\text{(C)}}", 1),
    ("5", "\\boxed{5", 0),
    ("5", "I got \\boxed{5}, but then \\boxed{6", 0),
    ("3", "First \\boxed{3}. Wait, no. \\boxed{5}", 0),
    ("5", "First \\boxed{3}. Wait, no. \\boxed{5}", 1),
    ("2,3", "The roots are $\\boxed{2}$ and $\\boxed{3}$.", 1),
    ("3", "The roots are $\\boxed{2}$ and $\\boxed{3}$.", 0),
    ("5", "\\boxed{x = 5}", 1),
    ("5", "$x=5$", 1),
    ("7", "\\boxed{7} \\boxed{8}", 0),
    ("7", "\\boxed{7}\n\n**Final Answer** \\boxed{7}", 1),
    ("7", "<|im_start|>assistant The answer is 7.<|im_end|>", 1),
    ("3.5", "The answer is 3.5.", 1),
    ("-4", "The answer is -4", 1),
    ("4", "The answer is -4", 0),
    ("0.5", "The answer is .5", 1),
    ("1/2", "The answer is 1/2", 1),
    ("20\\%", "The answer is 20%.", 1),
    ("20", "The total is 20%.", 1),
    ("4:30", "they meet at 4:30.", 1),
    ("x^2+1", "The answer is $x^2+1$.", 1),
    ("x^2+1", "The answer is x^2+1.", 1),
    ("(1,2)", "The point is $(1,2)$", 1),
    ("12", "There are 12 of these. The final answer is 7.", 0),
    ("5", "", 0),
    ("5", "   ", 0),
    ("5", "I don't know.", 0),
    ("5", "The answer is not 5", 0),
    ("5", "It could be 5 or 6", 0),
    ("100", "The answer is 100 square meters", 1),
    ("100", "The answer is $100 \\text{ m}^2$", 1),
    ("\\text{Friday}", "The answer is Friday.", 1),
    ("Yes", "The answer is yes.", 1),
    ("No", "The answer is yes.", 0),
    ("5", "<reasoning>5</reasoning>", 0),
    ("5", "<reasoning>a</reasoning><answer>5</answer>", 1),
    ("9", "\\[ \\boxed{9} \\]", 1),
    ("9", "$\\fbox{9}$", 1),
    ("9", "\\boxed{\\boxed{9}}", 1),
    ("9", "\\boxed{ 9 }.", 1),
    ("9", "\\boxed 9", 1),
    ("16", "\\boxed{\\$16}", 1),
    ("y_{1}=-2x", "y_1 = \\boxed{-2x}", 1),
    ("2", "x = 2 is the only solution", 1),
    ("17", "17 is the answer", 1),
    ("6", "Let me check: 2*3 = 6. Yes, 6 works.", 1),
    ("8", "so **8**", 1),
    ("8", "The answer is **8**.", 1),
    ("8", "The answer is \\textbf{8}", 1),
    ("3/4", "= \\frac{3}{4}", 1),
    ("1 000 000", "one million, i.e. 1,000,000", 1),
    ("11", "\\boxed{11_{10}}", 1),
]


@pytest.mark.parametrize(("gold", "text", "right"), TEXTS)
def test_the_answer_of_a_text(gold, text, right):
    assert judge(text, {"gold": gold}).reward == (1.0 if right else 0.0)


EXTRACTS = [
    ("\\fbox{7}", "boxed", "7"),
    ("a \\boxed{a \\boxed{b}}", "boxed", "a \\boxed{b}"),
    ("\\boxed{ {x } then \\boxed{5}", "boxed", "5"),
    ("<answer>1</answer> ... <answer>5</answer>", "answer_tag", "5"),
    ("I have no idea", "answer_tag", None),
    ("We calculate 6 * 7.</think>\nThe final answer is 42.", "answer_tag", None),
    ("first \\boxed{1} then \\boxed{99}", "answer_tag", "99"),
    ("answer: \\boxed{-3}", "answer_tag", "-3"),
    ("<reasoning>maybe \\boxed{1}</reasoning><answer>\\boxed{8}</answer>", "answer_tag", "8"),
    ("Some reasoning ####   123.45  ", "hash", "123.45"),
    ("####", "hash", ""),
    ("", "hash", None),
    ("no box", "boxed", None),
    ("First I compute 10, so the answer is 42.", "auto", "42"),
    ("We saw 10 then 20 then 30.", "auto", "30"),
    ("no numbers in this sentence", "auto", None),
    ("<answer>\\boxed{ 7 }</answer>", "answer_tag", "7"),
    ("the answer is \\boxed{\\frac{1}{2}}", "auto", "\\frac{1}{2}"),
    ("<reasoning>The answer is 42.</reasoning>", "answer_tag", None),
    ("The answer is 42", "auto", "42"),
    ("$16", "auto", "$16"),
]


@pytest.mark.parametrize(("text", "rule", "expected"), EXTRACTS)
def test_extraction(text, rule, expected):
    assert extract(text, rule) == expected


def test_an_unknown_rule_names_the_rules():
    with pytest.raises(ValueError, match="answer_tag"):
        extract("5", "best")


def test_verdicts_name_their_reason():
    cases = [
        ("5", "\\boxed{5}", "correct", "string", 1.0),
        ("0.5", "\\boxed{1/2}", "correct", "number", 1.0),
        ("0.5", "\\boxed{1/3}", "wrong", "number", 0.0),
        (r"x^2-1", "\\boxed{(x-1)(x+1)}", "correct", "modular", 1.0),
        (r"\sqrt{8}", r"\boxed{2\sqrt{2}}", "correct", "numeric", 1.0),
        ("5", "", "no_answer", "extract", 0.0),
        ("5", r"\boxed{5^{5^{5^{5^5}}}}", "budget", "digits", 0.0),
        ("", "\\boxed{5}", "gold_unusable", "gold", None),
        (r"\frac{1}{", "\\boxed{5}", "gold_unusable", "gold", None),
    ]
    for gold, text, name, stage, earned in cases:
        verdict = judge(text, {"gold": gold})
        assert (verdict.verdict, verdict.stage, verdict.reward) == (name, stage, earned)


def test_of_several_golds_any_will_do():
    assert judge("\\boxed{42}", {"gold": ["1", "42"]}).reward == 1.0
    assert judge("\\boxed{42}", {"gold": ["1", "2"]}).reward == 0.0


def test_equal_numbers_share_a_canonical_form():
    forms = {judge(f"\\boxed{{{form}}}", {"gold": "1"}).canonical for form in ("1/2", "0.5", ".50", r"\frac{2}{4}")}
    assert forms == {"1/2"}


def test_the_answer_is_read_after_the_thinking_and_an_endless_thought_has_none():
    flood = "so \\boxed{5} " * 20000  # the opening tag lies far before what is searched
    assert judge(f"<think>{flood}", {"gold": "5"}).verdict == "no_answer"
    assert judge(f"<think>{flood}</think> \\boxed{{5}}", {"gold": "5"}).reward == 1.0


def test_verify_answers_from_a_worker():
    assert verify(r"\frac{\sqrt{2}}{2}", r"$\boxed{\frac{1}{\sqrt{2}}}$", deadline=60.0).reward == 1.0
