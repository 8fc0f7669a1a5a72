"""Verdicts on math answers. How well they do on real data: tests/grade_figures.py."""

import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from parts.answers import Judge, boxed, equal_answers, judgeable

# fmt: off
EQUAL = [  # in both directions
    # numbers
    (r"\frac12", "0.5"), ("1/2", r"\dfrac{1}{2}"), (r"3\frac12", "7/2"), ("3 1/2", "3.5"), ("-2 1/4", "-9/4"),
    ("1,234,567", "1234567"),
    ("10^{-3}", "0.001"), ("7e4", "70000"), ("1.25E-2", "0.0125"), ("2.5e-3", "0.0025"),
    ("3*10**4", "30000"), ("--8", "8"),
    ("12--5", "17"), ("¼", "0.25"),
    ("2'500'000", "2500000"), (r"12{,}500", "12500"), ("3{,}5", "3.5"), (r"4,\!096", "4096"),
    (r"1\,000\,000", "1000000"), ("007", "7"),
    (r"0.\overline{3}", r"\frac13"), ("52_8", "42"), ("1011_2", "11"), ("0.333333", r"\frac13"),
    ("0.577350", r"\frac{\sqrt3}{3}"),
    ("3.14159265", r"\pi"), ("5!", "120"), (r"\binom{5}{2}", "10"), (r"{6 \choose 3}", "20"),
    (r"{3 \over 4}", "0.75"), ("2^3^2", "512"),
    (r"\gcd(18,24)", "6"), (r"\operatorname{lcm}(6,8)", "24"), (r"6 \bullet 7", "42"),
    (r"\lfloor 3.5\rfloor", "3"), ("2(3)", "6"),
    # typesetting
    (r"\boldsymbol{\frac{2}{3}}", "2/3"), (r"\bigl(3,4\bigr)", "(3,4)"), ("**48**", "48"),
    (r"\color{red}{9}", "9"), ("$7$.", "7"),
    (r"\textcolor{blue}{9}", "9"), (r"\displaystyle\frac{5}{6}", "5/6"), (r"\text{Answer: }15", "15"),
    ("15 (as required)", "15"),
    (r"\boxed{\boxed{3}}", "3"), (r"\approx 3.14", "3.14"),
    (r"\frac{\sqrt2}{2}\approx 0.707", r"\frac{1}{\sqrt2}"), ("π/2", r"\frac{\pi}{2}"),
    # units
    (r"\$12", "12"), (r"\$1,\!250.40", "1250.4"), ("26 oranges", "26"), (r"80\text{ km/h}", "80"),
    (r"9\textnormal{ miles}", "9"),
    (r"6\text{ cm}^2", "6"), (r"6\text{ cm}", "6"), ("6 cm", "6"), (r"2\sqrt3\text{ meters}", r"2\sqrt3"),
    (r"4\text{ m}", "4m"),
    (r"\frac{\pi}{4}\text{ radians}", r"\frac\pi4"), (r"30\%", "30"),
    (r"75^\circ", "75"), ("75°", "75 degrees"),
    (r"60^\circ", r"\frac{\pi}{3}"),
    # functions
    (r"\sin\pi", "0"), (r"\cos 60^\circ", r"\frac12"), (r"\tan^{-1} 1", r"\frac{\pi}{4}"), (r"\log_2 8", "3"),
    ("exp(2)", "e^2"), (r"e^{i\pi}", "-1"),
    (r"\sin^2 x+\cos^2 x", "1"), (r"\cos(k\pi)", "(-1)^k"), (r"3\operatorname{cis}\frac{\pi}{2}", "3i"),
    (r"\sqrt[3]{8}", "2"), (r"\sqrt{-9}", "3i"),
    (r"\max(x,y)", r"\frac{x+y+|x-y|}{2}"), ("sin(2x)", r"2\sin x\cos x"), (r"\ln(e^3)", "3"),
    # letters
    ("x^2+2x+1", "(x+1)^2"), ("cab", "abc"), (r"x\cdot y\cdot z", "zyx"), (r"\binom n2", r"\frac{n(n-1)}2"),
    ("k(k-1)!", "k!"), ("|x-1|", "|1-x|"),
    ("a_1+a_2", "a_2+a_1"), ("(ab)^n", "a^n b^n"), (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\varepsilon", r"\epsilon"), ("x^{2/3}", r"\sqrt[3]{x^2}"),
    (r"2^{1006}\sqrt{2^{2010}+2}-2^{2011}", r"2^{1006}(\sqrt{2^{2010}+2}-2^{1005})"),
    (r"\frac{1}{2^{4016}}", "2/2^{4017}"), ("n2^{n-1}", "2^{n-1}n"),
    # names
    ("x=3", "3"), ("f(x)=x+1", "x+1"), (r"g^{-1}(x)=\frac{x+3}{2}", r"\frac{x+3}{2}"), ("|w|=4", "4"),
    ("AB=7", "7"), (r"\angle ABC=40^\circ", "40"),
    ("S_n=n^2", "n^2"), (r"\text{Area}=12", "12"), ("8=x", "x=8"), (r"(x,y)=(1,2)", "(1,2)"),
    ("x=1, y=2", "(1,2)"), ("y=2x+1", "2x+1=y"),
    # lists and sets
    (r"\{1,2\}", r"\{2,1\}"), ("(1,2)", "(1, 2)"), ("1,2", "2,1"), ("1 or 2", "1, 2"), ("4 and 17", "17, 4"),
    ("4, 5, and 6", "6, 5, 4"),
    (r"1 \pm \sqrt{2}", r"1-\sqrt2, 1+\sqrt2"), (r"\pm 5", r"\{-5,5\}"), (r"\{\pm2, 0\}", r"\{-2,0,2\}"),
    (r"x=3\text{ or }x=-4", r"\{-4,3\}"),
    ("n=4,5,6", r"\{4,5,6\}"), (r"n\in\{4,5,6\}", "4,5,6"), ("400, 300, 200", "200, 300, 400"),
    (r"\{3, 250\}", "3, 250"), (r"\varnothing", r"\{\}"),
    (r"\text{no solution}", r"\emptyset"), ("(1,2),(3,4)", r"\{(3,4),(1,2)\}"),
    (r"\langle 4,5,6\rangle", "(4,5,6)"), (r"\text{infinitely many}", r"\infty"),
    (r"x=\frac{\pi}{6}+n\pi, n\in\mathbb{Z}", r"\frac{\pi}{6}+k\pi,\ k\in\mathbb Z"),
    # sets of real numbers
    ("x>3", "3<x"), (r"[0,1)\cup(2,3]", r"(2,3]\cup[0,1)"), (r"x \in [1,2]", "[1,2]"), ("1<x<7.5", "(1,7.5)"),
    (r"x\le 4", r"(-\infty,4]"),
    (r"x\ne 2", r"(-\infty,2)\cup(2,\infty)"), (r"\mathbb{R}\setminus\{2\}", r"x\neq 2"),
    (r"x<-2\text{ or }x>5", r"(-\infty,-2)\cup(5,\infty)"),
    (r"[0,3]\setminus(1,2)", r"[0,1]\cup[2,3]"), (r"[0,1]\cup[1,2]", "[0,2]"),
    (r"x\ne 0, 1", r"\mathbb R\setminus\{0,1\}"),
    ("x>1 and x<3", "(1,3)"), (r"\{x\mid x\ge 2\}", r"[2,\infty)"), (r"x\in\mathbb R", r"(-\infty,\infty)"),
    ("a<x<b", "(a,b)"),
    (r"0\le x\le 1 \cup x>4", r"[0,1]\cup(4,\infty)"), (r"x\ne a", r"(-\infty,a)\cup(a,\infty)"),
    (r"\mathbb R-\{5\}", r"x\ne 5"),
    # relations
    ("3x+6y-5=0", r"y=-\frac12x+\frac56"), ("x^2/9+y^2/4=1", "4x^2+9y^2=36"), ("x-y=0", "y-x=0"),
    ("x+y<1", "1>y+x"), (r"y\neq 2x", r"y\ne 2x"),
    # matrices
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & 4/2 \\ 3 & 4 \\ \end{bmatrix}"),
    (r"(\begin{pmatrix}1\\2\end{pmatrix})", "(1,2)"),
    (r"\left[\begin{array}{cc}5&6\\7&8\end{array}\right]", r"\begin{pmatrix}5&6\\7&8\end{pmatrix}"),
    (r"\frac12\begin{pmatrix}2&4\\6&8\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\end{pmatrix}+\begin{pmatrix}3&4\end{pmatrix}", r"\begin{pmatrix}4&6\end{pmatrix}"),
    # words
    (r"\text{yes}", "Yes"), (r"\text{No, it is not}", "No"), (r"\text{D: }3", "D"),
    (r"\textbf{(C)}\ 42", "C"), (r"\text{(C)}", "C"), (r"\textbf{(C)}\ 42", "42"), (r"\text{Option C}", "C"),
    # letters under floor and ceiling are integers
    (r"\lceil\frac{m}{4}\rceil", r"\lfloor\frac{m+3}{4}\rfloor"),
    (r"\lfloor\frac{n^2}{4}\rfloor", r"\lfloor\frac n2\rfloor\lceil\frac n2\rceil"), (r"\log_5 5^{70}", "70"),
    # names
    ("q=7, p=2", "(7,2)"), ("(q,p)=(7,2)", "p=2, q=7"), ("x_1=5, x_2=-2", "-2, 5"),
    ("x=5, x=-2", "x_1=-2, x_2=5"),
    (r"\tan\alpha=\frac23", r"\frac23"), ("E[Y]=4", "4"), ("[BCD]=9", "9"), (r"\text{Var}(Y)=3", "3"),
    ("p+q=5+6=11", "11"),
    ("f(x)=3x-1", "y=3x-1"), (r"\text{The product is }\frac29", r"\frac29"),
    (r"\text{There are }9\text{ such numbers}", "9"),
    # units
    (r"7\text{ cm}^2", r"7 \mathrm{~cm}^{2}"), (r"7\text{ sq cm}", r"7\text{ cm}^2"),
    (r"3\text{ hours}", r"3\text{ h}"),
    (r"6\text{ meters}", r"6\text{ m}"), (r"9\text{ m/s}^2", r"9 \mathrm{~m} / \mathrm{s}^{2}"),
    ("40%", "40"),
    # forms
    ("{y<2}", "y<2"), ("{[3,4]}", "[3,4]"), (r"1.851852\times10^{-2}", r"\frac1{54}"),
    ("(0.333333)", r"\frac13"),
    ("(a) 8, (b) 9", "8, 9"), (r"\log 1000", "3"), (r"3-\log 2", r"\log 500"),
    (r"\binom{3000}{1500}", r"\frac{3000!}{1500!^2}"),
    ("2^4 3^2", "144"), (r"x<1\text{ or }x=4", r"(-\infty,1)\cup\{4\}"),
    (r"x>0, x\ne3", r"(0,3)\cup(3,\infty)"),
    ("2:6", "1:3"), ("6:4", "1.5"), (r"\sqrt3:2", r"\frac{\sqrt3}2"), ("25%", "0.25"), (r"0.4\%", "0.004"),
    (r"\ell^2", "l^2"), (r"0.\dot{6}", r"\frac23"), (r"3\vec{i}", r"3\hat{i}"), ("*8*", "8"),
    (r"8\quad\blacksquare", "8"), (r"\pounds 8", "8"), ("4, 5, …, 9", r"4,5,\ldots,9"),
    (r"n\equiv 2 \pmod 5", r"n\equiv2\ (\text{mod }5)"), ("[(4,5),(6,7)]", "(4,5),(6,7)"),
    ("[4,-5]", r"\begin{pmatrix}4\\-5\end{pmatrix}"), (r"{v}=\begin{pmatrix}4\\5\end{pmatrix}", "(4,5)"),
    ("ab=6", "6"), ("p^2-q^2=6", "6"), (r"\frac{p}{q}=6", "6"), ("f(1)+f(2)=6", "6"), ("AB:CD=2:5", "2:5"),
    (r"a_1+a_2+\cdots+a_9=6", "6"), (r"\lim_{x\to0}f(x)=6", "6"), (r"\gcd(a,b)=6", "6"), (r"\max = 6", "6"),
    ("7\u00a0", "7"), ("\u200b7", "7"), ("\uff58\uff1d7", "7"), ("2\u20443", r"\frac23"),
    ("(x-y)^{5000}", "(y-x)^{5000}"),
    (r"3\cdot2\frac13", "7"), ("0.(6)", r"\frac23"), ("4 x 10^3", "4000"), ("minus 8", "-8"),
    ("(B) 14", "14"), ("(B) 14", "B"), ("So 8", "8"), ("Therefore, 8", "8"), ("8 sq cm", "8"), ("USD 8", "8"),
    ("80^o", r"80^\circ"), ("20 cents", "0.20"), ("€8", "8"), (r"\$8", "8 dollars"),
]
DIFFERENT = [  # in both directions
    ("1/2", "0.51"), (r"11\sqrt2", "11"), ("2^{4016}", "2^{4017}"), ("3", "-3"), ("1/2^{4016}", "3/2^{4016}"),
    ("1000000.5", "1000000"),
    ("0.33", r"\frac13"), ("0.333334", r"\frac13"), ("3.14", r"\pi"), ("0.6", r"\frac35+\frac{1}{10^{9}}"),
    ("250000.4", r"\frac{500001}{2}"),
    ("9007199254740993", "9007199254740992"), ("30!", "30!+1"), ("1234567890123456.0", "1234567890123457"),
    ("0.3333333", "0.3333334"),
    (r"\sqrt{10^{60}+1}", "10^{30}"), (r"\sqrt{10^{400}+1}-10^{200}", "0"),
    (r"\frac{(2+\sqrt3)^{99}}{2}", r"\frac{(2+\sqrt3)^{99}+(2-\sqrt3)^{99}}{2}"),
    (r"2^{1006}\sqrt{2^{2010}+2}-2^{2011}", r"2^{1006}\sqrt{2^{2010}+3}-2^{2011}"), ("1 1/2", "11/2"),
    ("2128", "2, 128"), ("2:3", "3:2"), ("375", ".375"), (".0042", ".00042"),
    (r"\frac rR", r"\frac Rr"), ("x", "X"), ("a_n", "A_n"), ("x", "|x|"), (r"\sqrt{x^2}", "x"),
    ("k^2", "k^2s"), ("x+1", "x+2"), ("sin(x)", "cos(x)"),
    (r"\sin 30", r"\sin 30^\circ"), (r"\pi^\circ", r"\pi"), (r"60\text{ radians}", r"60^\circ"),
    ("6", "3x=6"), ("2x=5", "5"), ("x=2", "y=2"), ("x=1,x=2", "1"),
    ("x=1,x=2", "x=1"), ("0=0", "3"),
    ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("1,2", "(1,2]"), ("1,2", "1"), (r"\{1,2\}", r"\{1,3\}"),
    (r"\{1,2\}", "(1,2)"), ("1, 2, 3, 4", "2"), (r"\pm 3", "3"),
    ("1, 1, 2", "1, 2, 2"), ("None", "a^b>3"), (r"\emptyset", "0"), (r"\emptyset", r"\{0\}"), ("x>3", "x<3"), ("x>3", r"x\ge 3"),
    (r"x\ne 3", "3"),
    (r"[0,1]\cup[2,3]", "[0,3]"), (r"(0,1)\cup(1,2)", "(0,2)"), (r"\mathbb R", r"(0,\infty)"),
    (r"(3,\infty)", "(3,4)"),
    (r"\infty", "5"), (r"\infty", r"-\infty"), (r"\infty", "x"), ("yes", "no"), ("A", "B"), ("ABDC", "ABCD"),
    ("A", "4"), ("2", r"5\text{ eggs}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)"),
]
NEVER_RIGHT = [  # different answers, which may be undecided
    # reasons and conditions
    (r"\text{divisible by 7}", r"\text{divisible by 9}"), ("decreases by 10%", "decreases by 15%"),
    ("6 by 7", "6"),
    ("4 since 9", "4"), ("p as q", "p as r"), (r"\text{Yes, but only for odd }n", "Yes"),
    (r"\text{No clue}", "No"),
    (r"\text{Yes, unless }n=2", r"\text{Yes}"), (r"\text{not}=8", "8"), (r"\text{Not: }8", "8"), (r"\text{The answer is not }8", "8"),
    (r"8\text{ (at least)}", "8"),
    # letters
    (r"\lceil\log_3 n\rceil", r"\lfloor\log_3 n\rfloor+1"),
    (r"\lceil\frac{\ln n}{\ln 3}\rceil", r"\lfloor\log_3 n\rfloor+1"),
    (r"\lceil n/50\rceil", r"\lfloor n/50\rfloor+1"),
    (r"\lceil\sqrt[3]n\rceil", r"\lfloor\sqrt[3]n\rfloor+1"), (r"\lfloor x\rfloor", "x"),
    ("|n-777|", "777-n"), (r"\max(m,10^{40})", "10^{40}"), (r"\lfloor n/10^{20}\rfloor", "0"),
    (r"\text{At most: }8", "8"),
    (r"\max(m,4000)", "4000"), ("|x+10^9|-10^9", "x"), ("2^k+(-1)^m", "2^k+(-1)^k"),
    # names
    ("x=4, y=5", "x=4, x=5"), ("(k,b)=(6,2)", "b=6, k=2"), ("b=6, k=2", "(6,2)"),
    ("x_1=4, x_2=5", "x_1=5, x_2=4"),
    # terms that rounding swallows
    (r"(1+\sqrt3)^{2100}+(1-\sqrt3)^{2100}", r"(1+\sqrt3)^{2100}"), ("1-e^{-3100}", "1"),
    (r"\tanh(4000)", "1"), ("2^{10^{-900}}", "1"),
    (r"\cos\frac{\pi}{3^{1300}}", "1"), (r"\sqrt{10^{3200}+7}", "10^{1600}"),
    (r"\sqrt2+10^{-1900}", r"\sqrt2"), (r"\sin(10^{-700})", "10^{-700}"),
    ("a^3+e^3>b^3", "a^3+e^3>b^3+10^{-300}"),
    # products of matrices and vectors, values of functions, derivatives, remainders
    (r"Q^{-1}BQ", "B"), (r"(CD)^{-1}", r"C^{-1}D^{-1}"), ("C^TD^T", "D^TC^T"), ("e^{C}e^{D}", "e^{C+D}"), ("XY^2", "Y^2X"),
    (r"\vec{u}\times\vec{v}", r"\vec{v}\times\vec{u}"), (r"\vec{u}\times\vec{v}", r"\vec{u}\cdot\vec{v}"), ("C × D", "D × C"),
    (r"\phi(8)", r"8\phi"), ("Q(3)", "3Q"), ("h(a+b)", "h(a)+h(b)"), (r"\pi(20)", r"20\pi"), ("7R2", "14R"),
    (r"\frac{dy}{dx}", r"\frac yx"), (r"\sqrt35", r"\sqrt{35}"), ("~q", "q"), ("0.(6)", "0"), (r"3\cdot2\frac13", "2"),
    # or is not and
    (r"a \lor b", r"a \land b"), (r"a \lor b", "a,b"), ("x=4 or y=6", "x=4 and y=6"), ("x=4 or y=6", "(4,6)"),
    ("a>b or b>c", "a>b and b>c"), (r"x\in C \text{ or } x\in D", r"x\in C \text{ and } x\in D"),
    # labels that exclude or negate
    *((f"{label}: 8", "8") for label in ("Minus", "Anything but", "All odd numbers except", "Excluding", "Greater", "Bob")),
    *((f"{label}: 8", "8") for label in ("Multiples of", "Impossible", "Square root of the answer", "Value above")),
    # currencies, times, remarks, words before an integer
    ("€8", r"\$8"), ("¥8", "£8"), (r"\$8", r"8\text{ cents}"), (r"\$40", r"40\%"), (r"40^\circ", r"\$40"), ("8€", "8£"),
    (r"40^\circ", r"40\text{ m}"), ("9:00 AM", "9:00 PM"), ("9:00 a.m.", "9:00 p.m."), ("8 the maximum", "8 the minimum"),
    ("8 the maximum is not attained", "8"), ("8 as required plus one", "8"),
    (r"3^n \text{ for odd } n\in\mathbb{Z}", r"3^n \text{ for even } n\in\mathbb{Z}"),
    # nested sets, quantities of different units
    (r"\{\emptyset\}", r"\emptyset"), (r"\{3,\{4\}\}", r"\{3,4\}"), (r"\{\{3,4\}\}", r"\{3,4\}"),
    (r"8\text{ boys}, 9\text{ girls}", "9, 8"),
    # an equation, and the number in it
    ("12", "xy=12"), ("x+y=4", "4"), ("2", "2m"), ("52_8", "52"), ("n^2+n=30", "30"), ("-x>1", "x>-1"), ("3a+2=8", "8"), ("x^2+y^2=25", "25"),
    # words behind a number, and the percent sign
    *((rf"8\text{{ {word}}}", "8") for word in "! - millions dozens hundredths ninths lakh squared pairs percent above".split()),
    (r"700\%", "700"), (r"0.7\%", "0.7"),
    # small ones
    ("3_000", "3"), ("9_0", "9"), (r"\boxed{8} k", "8"), ("[9,-9)", "(9,-9)"), ("-No", "No"),
    (r"\text{(B)}+1", "B"),
]
UNDECIDED = [
    ("0.6666...", r"\frac23"), ("0.577350i", r"\frac{i}{\sqrt3}"), ("h=5, r=2", "(5,2)"), ("n=4k, k\\in\\mathbb N", "n=4k"),
    ("[4,5]", "4, 5"), ("500,200", "200, 500"), ("3+2I", "3+2i"), ("3-j", "3-i"), ("C_6^2", "15"),
    ("4k+3", "4k-1"), (r"\frac14\text{ or }25\%", r"\frac14"), ("[[4,5],[6,7]]", r"\begin{pmatrix}4&5\\6&7\end{pmatrix}"),
    ("100%", "1"),
    (r"k\pi+\frac\pi3", r"k\pi-\frac{2\pi}3"),
    (r"\begin{pmatrix}4&5\end{pmatrix}", r"\begin{pmatrix}4\\5\end{pmatrix}"),
    ("all primes", "every prime number"), (r"\sum_{k=1}^n k", "n(n+1)/2"), ("f(x", "3"),
    (r"\unknown{3}", "3"), (r"\foo", "x"), ("", "0"), ("", ""),
    (r"\frac10", "5"), (r"\frac00", "1"), (r"\frac10", r"\frac20"), (r"\ln 0", r"\text{no}"),
    (r"\ln 0", "x+1"), (r"\infty-\infty", "0"), (r"\frac{1}{\infty}", "0"),
    (r"\tan\frac{\pi}{2}", r"\frac{1}{\cos\frac{\pi}{2}}"), ("0^0", "1"), (r"\text{NaN}+1", "1"),
    (r"5\text{ cm}", r"5\text{ m}"), (r"3\text{ km}", r"3\text{ miles}"), ("1 2", "12"), (r"4\ 5", "45"),
    (r"3\quad 5", "35"), ("11 7/6", "73/6"),
    ("x=1=2", "1"), (r"5\text{ million}", "5"), (r"3\text{ or more}", "3"), (r"1\text{ mod }4", "1"),
    (r"\text{at least }5", "5"), (r"2\ln x", r"\ln x^2"),
    ("f(2)", "2f"), (r"\sqrt{10^{4000}+1}-10^{2000}", "0"), (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"),
    ("|n|2^n", r"\sqrt{n}\sqrt{n}2^n"), ("2x+1=7", "x=3"), (r"2\boxed{5}", "5"), (r"-\boxed{5}", "5"),
    ("2x<6", "x<3"), ("5!!", "15"),
    ("8 m", "8"), ("9.5 m/s^2", "9.5"), ("8th", "8"), ("1101", "1101_2"), (r"8^\circ C", "8"), ("d", "D"), ("xy=8", "8"),
    ("x^3+C", "x^3+c"), ("Ce^x", "C_1e^x"), ("f(x)=cx", "f(x)=kx"), (r"3\mathbf{i}+5\mathbf{j}", "(3,5)"), ("6C2", "15"),
    ("I_2", r"\begin{pmatrix}1&0\\0&1\end{pmatrix}"), (r"x_1=3 \text{ and } x_2=4", r"\{3,4\}"), ("4 to 3", "4:3"),
    ("8 (only)", "8"), ("3/5 of an hour", "3/5"), ("2,75", "2.75"), ("never", "no"), ("True", "Yes"), ("0.2(7)", r"\frac5{18}"), (r"\zeta(4)", "4"),
]
HOSTILE = [
    "9^9^9^9", "9^{9^{9^9}}", "10^{10^{10}}!", "99999999!", r"\binom{99999999}{4444444}", "{" * 5000,
    "(" * 900 + "1" + ")" * 900, "9" * 100_000,
    "-" * 1901 + "1", "e^" * 600 + "1", "|" * 1999, "1," * 900, r"\pm" * 500, r"\tan(10^{300})", "0^{-1}",
    "9" * 1900, "9^{9999}" * 240, "(x+1)^{999}" * 180,
    "(" * 39 + "1" + "+1)^{999}" * 39, r"\sqrt{x+" * 35 + "2" + "}" * 35,
    r"\begin{pmatrix}" + "1&" * 600 + r"1\end{pmatrix}", ",".join(f"sin({n})" for n in range(40)),
    "4000!" * 390, r"\ln " * 480, r"\text{" * 330, "a " * 999, '"' * 1999, r"\{" * 999,
    r"\cup".join(f"({n},{n}.5)" for n in range(90)), "1e999", "1e-99999",
    r"\sin\cos" * 240 + "x", "x_" * 999, r"0.\overline{" + "8" * 1900 + "}", "1=2=" * 450 + "1", "\\" * 1999,
    "\ud800", "\0", "²" * 1900, "½" * 300, "a^" * 900 + "a",
]
# fmt: on


@pytest.mark.parametrize("a, b", EQUAL)
def test_answers_that_mean_the_same_are_equal_in_both_directions(a, b):
    assert equal_answers(a, b) is True and equal_answers(b, a) is True


@pytest.mark.parametrize("a, b", DIFFERENT)
def test_answers_that_differ_are_not_equal(a, b):
    assert equal_answers(a, b) is False and equal_answers(b, a) is False


@pytest.mark.parametrize("a, b", NEVER_RIGHT)
def test_answers_that_look_alike_are_never_judged_equal(a, b):
    assert equal_answers(a, b) is not True and equal_answers(b, a) is not True


@pytest.mark.parametrize("a, b", UNDECIDED)
def test_answers_without_a_value_or_not_understood_are_undecided(a, b):
    assert equal_answers(a, b) is None and equal_answers(b, a) is None


GOLDS = [
    "5",
    "0",
    "-1",
    r"\frac12",
    r"\sqrt2",
    r"\pi",
    "x+1",
    "(1,2)",
    "[0,1)",
    r"\{1,2\}",
    "1, 2",
    "x>3",
    "y=2x+1",
    "yes",
    "B",
    r"5\text{ cm}",
    "2.5",
]
# fmt: off
UNIVERSAL = [
    r"\infty", r"-\infty", "x", "n", "?", "...", r"\text{}", "{}", r"\{\}", r"\emptyset", r"\pm", "0/0",
    r"\frac00", "nan", "inf", r"\ln 0", "=", "x=x", "x=",
    r"(-\infty,\infty)", r"\mathbb{R}", r"\text{any}", r"\text{answer}", "1=1",
    ",".join(map(str, range(-5, 38))), " or ".join(map(str, range(-1, 9))),
    r"\text{cm}", "cm m kg s", r"\approx", r"x\in\mathbb{R}", "1,2,5 or x", r"x\ne x", "**", "_", "^",
    r"\boxed{}", r"1^\infty", "A B C D", r"\text{(A) (B) (C)}",
             "(,)", "{,}", r"\text{(B)}, 36", "x>2 or 1", "yes and no", r"\text{yes, no}", "(A) or (B)",
    r"x=5=0=-1=\frac12", r"\pm\infty", "0.5000001"]
# fmt: on


@pytest.mark.parametrize("text", UNIVERSAL)
def test_no_short_text_is_right_for_every_question(text):
    assert [gold for gold in GOLDS if equal_answers(text, gold)] == []


def test_a_restated_problem_is_not_its_solution():
    assert all(
        equal_answers(a, b) is not True
        for a, b in (("3x-6=0", "2"), ("3x-6=0", "x=2"), ("x^2=4", r"x=\pm2"), ("3x<6", "x<2"))
    )


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_not_right_and_do_not_hang(text):
    results = []
    pairs = [(text, "1"), ("x+1", text), (text, text + "+1")]
    thread = threading.Thread(
        target=lambda: results.extend([equal_answers(*p) for p in pairs] + [judgeable(text)]), daemon=True
    )
    thread.start()
    thread.join(20)
    assert len(results) == 4 and True not in results[:3]


MUTATED = [  # each with a number, a letter or a sign that can be changed
    "12", "-7", "0.125", r"\frac{3}{7}", r"5\sqrt{3}", r"\frac{2\pi}{3}", "(3,-4)", "[2,5)", r"\{4,6,9\}",
    "n^2+3n", "x>4", r"\binom{9}{4}",
    r"1+2\sqrt{7}", "k=5", "y=3x-2", r"2^{n-1}+1", r"\lfloor\frac{n}{3}\rfloor+1", r"\lceil\log_2 n\rceil",
    "3-2i", r"\frac{n!}{4}", "7, 8", ".625", "25%", "3:5", r"\sqrt3:2", "p^2+q^2=8", "[4,5,6]", "[(1,2),(3,4)]",
    r"n\equiv2\pmod{7}", "f(1)-f(2)=6", r"\lim_{n\to3}a_n=5", r"\ell+2", "5k+2", r"0.1\dot{6}", r"2\vec{i}+3\vec{j}",
]  # fmt: skip


def mutations(gold):
    """Answers that differ from a gold answer by something small."""
    for match in re.finditer(r"\d", gold):
        yield gold[: match.start()] + str((int(match[0]) + 3) % 10) + gold[match.end() :]
    for old, new in (
        "+-",
        "-+",
        "nm",
        "xz",
        "><",
        "()",
        ")]",
        ("sqrt", "sin"),
        ("binom", "frac"),
        ("floor", "ceil"),
        "!^",
        (".", ""),
        ("%", "+1%"),
        (":", "*"),
    ):
        if old in gold:
            yield gold.replace(old, new, 1)
    if "floor" in gold:
        yield gold.replace("floor", "ceil").replace("+1", "")
    if "ceil" in gold:
        yield gold.replace("ceil", "floor") + "+1"
    for remark in (
        r"\text{ if }m>2",
        r"\text{ million}",
        r"\text{ or more}",
        " as 8",
        "+10^{-9}",
        "+e^{-9000}",
        "!+1",
    ):
        yield gold + remark
    for before in ("-1+", r"\text{not }", r"\text{at least }", r"\text{half of }", "1/7+"):
        yield before + gold


@pytest.mark.parametrize("gold", MUTATED)
def test_small_changes_of_an_answer_are_never_judged_right(gold):
    assert equal_answers(gold, gold + ".") is True
    assert [changed for changed in mutations(gold) if equal_answers(changed, gold)] == []


LONG_RUNS = [" ", "~", '"', "(", "1", "a ", r"\,", r"\text{a}", "as ", "1,", "½", r"\left", "x_", "k in "]


@pytest.mark.parametrize("piece", LONG_RUNS)
def test_long_runs_of_one_piece_are_judged_in_time_that_grows_with_their_length(piece):
    start = time.perf_counter()
    for left, right in (("1 as", r"\text{x}"), ("5 (", ")"), ("", "")):
        equal_answers(left + piece * (1900 // len(piece)) + right, "1")
    assert time.perf_counter() - start < 10  # a cubic pattern takes minutes


def test_random_text_never_raises():
    rng = random.Random(7)
    commands = (
        r"\frac \sqrt \text{ \pm \cup \in \infty \begin{pmatrix} \end{pmatrix} \\ \left \right \sin \log_"
    )
    pieces = [
        *r"\{}()[]|<>=+-*/^_!,;:.&$%~'0123456789 xnei",
        *commands.split(),
        *r"\boxed{ \le \ne \degree cm or".split(),
    ]
    pieces += ["\ud800", "\0", "²", "½", '"']
    for _ in range(800):
        a, b = ("".join(rng.choices(pieces, k=rng.randint(1, 14))) for _ in range(2))
        assert equal_answers(a, b) in (True, False, None) and judgeable(a) in (True, False)
        assert boxed(a) is None or isinstance(boxed(a), str)


def test_nothing_in_an_answer_is_executed(tmp_path):
    marker = tmp_path / "marker"
    for text in (
        f"__import__('pathlib').Path('{marker}').touch()",
        f"open('{marker}','w')",
        f"exec(\"open('{marker}','w')\")",
    ):
        assert equal_answers(text, "1") is not True
    assert not Path(marker).exists()


def test_verdicts_are_the_same_in_threads_and_every_time():
    pairs = [
        (r"\sin 30^\circ", "1/2"),
        ("x^n", "x^{n+0}"),
        (r"\sqrt2+\sqrt3", r"\sqrt{5+2\sqrt6}"),
        (r"\pi", "3.14"),
    ] * 12
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda p: equal_answers(*p), pairs)) == [equal_answers(*p) for p in pairs]


@pytest.mark.parametrize(
    "gold",
    [
        "7",
        r"\frac12",
        "(1,2)",
        r"\{1,2\}",
        r"x\le 3",
        "x+1",
        "yes",
        r"\text{(B)}",
        "y=2x",
        r"5\text{ cm}",
        r"\infty",
        r"\lfloor\sqrt{n-1}\rfloor",
    ],
)
def test_answers_with_values_can_be_judged(gold):
    assert judgeable(gold)


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "all primes of the form 4k+1",
        r"\sum_{k=1}^n k",
        r"\frac10",
        r"\text{The sequence does not converge}",
        "9" * 3000,
    ],
)
def test_prose_and_answers_without_a_value_cannot_be_judged(gold):
    assert not judgeable(gold)


@pytest.mark.parametrize(
    "text, inside",
    [
        (r"so \boxed{1} and \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed {4}", "4"),
        (r"so $\boxed7$.", "7"),
        (r"so \boxed 12.", "12"),
        (r"\fbox{9}", "9"),
        ("\\boxed{\n3\n}", "3"),
        (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
        (r"\boxed{x\} y}", r"x\} y"),
        (r"\boxedx{3}", None),
        (r"\boxed{}", None),
        (r"\boxed{3} then \boxed{}", None),
        (r"\boxed{1", None),
        ("the answer is 3", None),
        (r"\boxed", None),
        (r"\boxed{\boxed{1},\boxed{2}}", r"\boxed{1},\boxed{2}"),
        (r"\boxed{" + "{" * 100_000, None),
    ],
)
def test_the_answer_is_the_content_of_the_last_box(text, inside):
    assert boxed(text) == inside


@pytest.mark.parametrize(
    "text, gold",
    [
        ("x=1\ny=2", "(1,2)"),
        (r"\begin{cases}x=1\\y=2\end{cases}", "(1,2)"),
        ("5 \\text{ (the minimum)}", "5"),
        (r"12 \quad \text{(since it is even)}", "12"),
        ("x=2 \\\\ x=7", "2,7"),
        ("1,\n2", "2,1"),
    ],
)
def test_answers_over_two_lines_or_with_a_remark_are_read(text, gold):
    assert equal_answers(text, gold) is True


def test_a_function_of_a_complex_number_counts_as_more_work_than_one_of_a_real_number():
    judges = Judge(), Judge()
    for judge, text in zip(judges, (r"\arctan(n+2)", r"\arctan(n+2i)")):
        judge.value(text, 0, 1200)
    assert judges[1].budget < judges[0].budget - 20


def test_many_brackets_before_a_matrix_take_no_time():
    start = time.process_time()
    assert equal_answers("(a)" * 60 + r"_\begin{pmatrix}1\\2\end{pmatrix}", "3") is None
    assert (
        time.process_time() - start < 2
    )  # a bound, not a measurement: the pattern doubled with each bracket
