"""Lists the most common words of the languages in Latin script, by which the module `language` detects a language.

The lists hold function words and words that are frequent in reasoning.
"""

# A word may be listed under several languages
COMMON = {
    "en": """
        the of and to in is that it for as with we this be are on by so if then let from which can
        have has not an at but or what when there will was were would should could need because
        since therefore thus hence also now all each two three first second next finally given find
        get gives add equals equal number answer check wait try again where how they their you your
        he she his her its one more than same only both our my me us do does did must may might any
        some other into out up here these those yes no start step result sum compute means just okay
        maybe think using use hello per had been does many much total cost left after before every
        day hour due come man son die war dose sale pure sole
    """,
    "fr": """
        le la les des du de un une et est que qui dans en pour pas sur au aux avec ce cette ces nous
        vous il elle ils elles on je tu mais ou où donc si alors comme par plus sont avons avez être
        été fait faire soit ainsi puis ensuite car parce cela ça deux trois premier première nombre
        réponse somme égal égale obtient obtenir ajoute abord même tout tous trouver résultat leur
        son sa ses mon ma notre votre bien encore attendons vérifions calculons bonjour très aussi
        quand peut avoir
    """,
    "de": """
        der die das und ist nicht ein eine einen einem einer eines den dem des mit von zu zum zur
        für auf wir ich sie er es im in an auch so wenn dann dass als wie aber oder also sind hat
        haben wird werden kann können muss müssen bei aus nach durch über zwei drei erste zuerst nun
        jetzt daher deshalb weil somit gleich zahl antwort summe ergibt addiere addieren prüfen
        warte noch nur mehr man uns unser ihr sein war was hier ergebnis beide alle folgt guten
    """,
    "es": """
        el la los las de del que y en un una es por para con no se lo al como más pero sus su este
        esta esto estos si entonces o ya hay son ser está están tenemos primero segundo dos tres
        número respuesta suma igual así luego porque cuando también donde muy sin sobre todo todos
        cada uno otro ahora tanto sumamos obtener obtenemos resultado espera comprobar vamos debemos
        puede sea nos mi tu hola qué cuál
    """,
    "it": """
        il lo la gli le di del della dei delle un una uno è che e in per con non si da al alla sono
        come più ma anche se questo questa quindi allora poi perché due tre primo prima numero
        risposta somma uguale abbiamo dobbiamo nel nella dal o ci ha essere ora ogni tutti quando
        dove così otteniamo risultato aspetta verifichiamo ciao cosa sommo
    """,
    "pt": """
        o a os as de do da dos das que e em um uma é para com não se por no na nos nas ao como mais
        mas ou são está este esta isso então também porque quando onde dois duas três primeiro
        número resposta soma igual temos devemos ser foi pelo pela seu sua muito já agora cada todos
        assim depois obtemos resultado espere vamos olá você
    """,
    "nl": """
        de het een en van is dat die in te op voor met niet zijn er aan om ook als dan maar bij of
        uit wij we je ik hij zij dit deze naar door over zo dus omdat twee drie eerst eerste getal
        antwoord som gelijk hebben heeft wordt worden kan kunnen moet moeten nu nog wat waar hier
        alle elk krijgen optellen resultaat wacht hallo
    """,
    "vi": """
        là và của các có cho được không với một những này đó trong khi thì để ta chúng tôi số vậy
        nên hai ba bằng tổng đáp án
    """,
    "id": """
        yang dan di ke dari untuk dengan ini itu adalah tidak kita kami akan pada maka jika dua tiga
        jumlah jawaban angka
    """,
    "tr": """
        ve bir bu için ile değil olarak ise sonra önce iki üç sayı cevap toplam eşittir biz olan
        çünkü şimdi
    """,
    "pl": """
        i w na z do nie to że się jest jak ale są dla więc jeśli dwa trzy liczba odpowiedź suma
        najpierw teraz ponieważ
    """,
    "sv": """
        och att det som en på är av för med till den inte vi om så har eller två tre först tal svar
        summan nu
    """,
}
